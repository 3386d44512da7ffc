//! seccomp: the system calls that a notebook has no use for and somebody else has: to look into other processes, to
//! mount, to leave its names, to load code into the kernel, to open sockets other than TCP. A refused call fails with
//! EPERM, as it does for a user without rights. A list of what is refused, not of what is allowed: packages are many,
//! and Landlock, users and names stand behind it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Failure, failed};
use crate::compute::order::Network;

/// Calls that are refused whatever their arguments.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // Names and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Memory that no limit of ours sees, and that outlives a run.
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The bits of a socket's type that are not flags.
const SOCKET_TYPES: i32 = 0xf;
/// TIOCSTI and TIOCLINUX: to type into somebody's terminal.
const TERMINALS: [i32; 2] = [0x5412, 0x541c];
/// A condition on all bits of an argument.
const ALL: i32 = -1;

/// The second numbering of calls that x86-64 kernels may have, with a few numbers of its own.
#[cfg(target_arch = "x86_64")]
const X32: std::ops::RangeInclusive<i64> = 0..=600;
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

/// Puts the filters in force.
pub(super) fn refuse(network: Network) -> Result<(), Failure> {
    let step = "refuse system calls";
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(failed(step))?;
    // glibc then falls back on clone, whose flags can be looked at.
    let unknown: Rules = [(libc::SYS_clone3, Vec::new())].into();
    for (rules, error) in [(unknown, libc::ENOSYS), (refused(network).map_err(failed(step))?, libc::EPERM)] {
        let action = SeccompAction::Errno(error.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(failed(step))?;
        let program: BpfProgram = filter.try_into().map_err(failed(step))?;
        seccompiler::apply_filter(&program).map_err(failed(step))?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused(network: Network) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(X32.map(|call| (X32_BIT | call, Vec::new())));

    let new_names = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    rules.insert(libc::SYS_clone, any(new_names.map(|flag| vec![has(0, flag)]))?);

    // Families, types and protocols of sockets that are not TCP's (nor, with a network, UDP's). Multipath TCP, for one,
    // is no TCP to Landlock.
    let (types, protocols): (&[i32], &[i32]) = match network {
        Network::Deny => (&[libc::SOCK_STREAM], &[0, libc::IPPROTO_TCP]),
        Network::Allow => (&[libc::SOCK_STREAM, libc::SOCK_DGRAM], &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP]),
    };
    let mut sockets = vec![vec![is_not(0, libc::AF_INET), is_not(0, libc::AF_INET6)]];
    sockets.extend((0..=SOCKET_TYPES).filter(|kind| !types.contains(kind)).map(|kind| vec![is(1, SOCKET_TYPES, kind)]));
    sockets.push(protocols.iter().map(|protocol| is_not(2, *protocol)).collect());
    rules.insert(libc::SYS_socket, any(sockets)?);

    // To connect by sending is to connect where Landlock does not look.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, any([vec![has(flags, libc::MSG_FASTOPEN)]])?);
    }
    // Nobody's end but the keeper's ends a run whose keeper is gone.
    rules.insert(libc::SYS_prctl, any([vec![is(0, ALL, libc::PR_SET_PDEATHSIG)]])?);
    rules.insert(libc::SYS_ioctl, any(TERMINALS.map(|call| vec![is(1, ALL, call)]))?);
    Ok(rules)
}

/// A condition on one argument, whose upper half the kernel does not look at either.
type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn is(argument: u8, mask: i32, value: i32) -> Condition {
    let op = SeccompCmpOp::MaskedEq(word(mask));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, word(value))
}

fn has(argument: u8, flag: i32) -> Condition {
    is(argument, flag, flag)
}

fn is_not(argument: u8, value: i32) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, word(value))
}

fn word(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Refuses a call when all conditions of one of the lists hold.
fn any(lists: impl IntoIterator<Item = Vec<Condition>>) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    lists.into_iter().map(|conditions| SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)).collect()
}
