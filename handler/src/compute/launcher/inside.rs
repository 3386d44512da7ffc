//! What becomes the interpreter of a notebook: it gives up, step by step and for good, all that the run is not to have.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Failure, calls, failed, fence, order_from, root, watch};
use crate::compute::order::{self, Allowed, Fences, Network, Order, Tier, Told};

/// How far a run stands back for the handler, its keeper and everybody else.
const NICENESS: i32 = 5;

/// Takes its orders, builds the fences, says so, and becomes the interpreter.
pub(super) fn begin(mut socket: UnixStream) -> Result<Infallible, Failure> {
    let order = order_from(&mut socket)?;
    rustix::process::setsid().map_err(failed("begin a session"))?;
    // What makes the root is to be passed through; what the run writes is its own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let proc = order.tier == Tier::Isolated && root::enter(&order)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    limit(&order).map_err(failed("set the limits"))?;
    rustix::process::nice(NICENESS).map_err(failed("stand back"))?;
    rustix::thread::clear_ambient_capability_set().map_err(failed("give up rights"))?;
    let mut fences =
        Fences { own_uid: order.uid.is_some(), namespaces: order.tier == Tier::Isolated, proc, ..Fences::default() };
    if order.tier >= Tier::Confined {
        rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
        fences.no_new_privileges = true;
        fences.landlock_abi = fence::put_up(&order)?;
        calls::refuse(order.network)?;
        fences.seccomp = true;
        holds(&order, &fences)?;
    }
    let mut interpreter = Command::new(&order.program);
    interpreter.args(&order.args).env_clear().envs(order.env.iter().map(|(key, value)| (key, value)));
    interpreter.current_dir(order.work());
    if let Some(uid) = order.uid {
        interpreter.uid(uid).gid(uid);
    }
    order::write(&mut socket, &Told::Ready(fences)).map_err(failed("answer the handler"))?;
    Err(failed(&format!("begin {}", order.program.display()))(interpreter.exec()))
}

/// Whether what stands is all that the tier promises, this kernel being as old as it is.
fn holds(order: &Order, fences: &Fences) -> Result<(), Failure> {
    let without = |what: &str| Err(failed("confine the run")(format!("this kernel has no {what}")));
    match order.tier {
        Tier::Limits | Tier::Isolated => Ok(()),
        Tier::Confined if fences.landlock_abi == 0 => without("Landlock"),
        Tier::Confined if order.network == Network::Deny && fences.landlock_abi < fence::WITH_PORTS => {
            without("Landlock rules for the network (Linux 6.7)")
        }
        Tier::Confined if order.uid.is_none() && fences.landlock_abi < fence::WITH_SIGNALS => {
            without("Landlock scope for signals (Linux 6.12), and the handler is not root")
        }
        Tier::Confined => Ok(()),
    }
}

/// Limits of each process; the keeper watches all of them together.
fn limit(order: &Order) -> rustix::io::Result<()> {
    let Allowed { cpu_seconds, memory_bytes, processes, open_files, file_bytes, .. } = order.allowed;
    // Who has no user of its own shares the number with the handler's other processes.
    let others = if order.uid.is_none() && order.tier != Tier::Isolated { watch::tasks_of_this_user() } else { 0 };
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, open_files),
        (Resource::Fsize, file_bytes),
        (Resource::Data, memory_bytes),
        (Resource::Nproc, processes.saturating_add(others)),
        (Resource::Cpu, cpu_seconds),
    ] {
        // The hard limit of time comes a second later, for who does not hear the signal of the soft one.
        let hard = if matches!(resource, Resource::Cpu) { most + 1 } else { most };
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(hard) })?;
    }
    Ok(())
}
