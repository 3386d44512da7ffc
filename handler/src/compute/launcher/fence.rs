//! Landlock: what a run may open, and which port it may connect to, whatever its user may. It holds for all that a run
//! begins, and cannot be taken off.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::root::DEVICES;
use super::{Failure, failed};
use crate::compute::order::{Network, Order, Tier};

/// The version whose rules are written here; an older kernel takes what it knows of them.
const WRITTEN_FOR: ABI = ABI::V6;
/// The first version that knows ports.
pub(super) const WITH_PORTS: u32 = 4;
/// The first version that keeps signals in.
pub(super) const WITH_SIGNALS: u32 = 6;

/// Puts the fence up; says which version of it stands, nought for none.
pub(super) fn put_up(order: &Order) -> Result<u32, Failure> {
    fence(order).map_err(failed("put up Landlock"))
}

fn fence(order: &Order) -> Result<u32, RulesetError> {
    let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let own = AccessFs::from_all(WRITTEN_FOR) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WRITTEN_FOR))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    if order.network == Network::Deny {
        rules = rules.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    }
    let mut rules = rules
        .create()?
        .add_rules(path_beneath_rules(&order.reads, read))?
        .add_rules(path_beneath_rules([order.work()], own))?
        .add_rules(path_beneath_rules(DEVICES, device))?;
    if order.tier == Tier::Isolated {
        rules = rules.add_rules(path_beneath_rules([Path::new("/proc"), Path::new("/dev")], read))?;
    }
    if order.network == Network::Deny {
        rules = rules.add_rule(NetPort::new(order.port, AccessNet::ConnectTcp))?;
    }
    Ok(match rules.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
        _ => 0,
    })
}
