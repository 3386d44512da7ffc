//! Names of its own for a run: processes, network, System V queues, and users when the handler is not root. The
//! network has a loopback interface and nothing else; the gateway's socket is made in it, and handed to the handler.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::thread::{Capability, UnshareFlags};

use super::{Failure, failed};
use crate::compute::order::{self, Network, Order, Told};

/// Leaves the names that are everybody's. A process that we begin from now on is the first of its own.
pub(super) fn leave(network: Network) -> Result<(), Failure> {
    let mut names = UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    if network == Network::Deny {
        names |= UnshareFlags::NEWNET;
    }
    if rustix::process::geteuid().is_root() {
        return rustix::thread::unshare(names).map_err(failed("leave the system's names"));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    rustix::thread::unshare(names | UnshareFlags::NEWUSER).map_err(failed("leave the system's names and users"))?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("{uid} {uid} 1")), ("gid_map", format!("{gid} {gid} 1"))]
    {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(failed(&format!("write {file}")))?;
    }
    keep_right_to_mount().map_err(failed("keep the right to mount"))
}

/// What is begun next has a user without rights; in the names of its own it has to mount.
fn keep_right_to_mount() -> rustix::io::Result<()> {
    let mut rights = rustix::thread::capabilities(None)?;
    rights.inheritable |= rustix::thread::CapabilityFlags::SYS_ADMIN;
    rustix::thread::set_capabilities(None, rights)?;
    rustix::thread::configure_capability_in_ambient_set(Capability::SystemAdmin, true)
}

/// The gateway's socket in a network of its own; nothing when the network is everybody's.
pub(super) fn gateway(order: &Order) -> Result<Option<TcpListener>, Failure> {
    if order.network == Network::Allow {
        return Ok(None);
    }
    loopback_up().map_err(failed("bring the loopback interface up"))?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, order.port);
    TcpListener::bind(address).map(Some).map_err(failed("listen in the run's own network"))
}

/// Asks the kernel, by rtnetlink(7), to bring up the one interface that a new network has.
fn loopback_up() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    const LOOPBACK: u32 = 1;
    const UP: u32 = 1;
    /// struct nlmsghdr (16 bytes) and struct ifinfomsg (16 bytes).
    const LENGTH: u32 = 32;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let mut message = LENGTH.to_ne_bytes().to_vec();
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    // Sequence and port; family and type; index, flags, and which of them are meant.
    message.extend(words(&[1, 0, 0, LOOPBACK, UP, UP]));
    // NETLINK_ROUTE is the protocol of number nought.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    // An acknowledgement: a header, and an error number that is nought or less.
    let mut answer = [0; 64];
    let length = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    match answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

/// Sends a socket along with the frame that announces it.
pub(super) fn send(to: &UnixStream, gateway: TcpListener) -> io::Result<()> {
    let mut space = [0; rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [gateway.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    let frame = order::frame(&Told::Gateway)?;
    let sent = rustix::net::sendmsg(to, &[IoSlice::new(&frame)], &mut control, SendFlags::empty())?;
    if sent == frame.len() { Ok(()) } else { Err(io::Error::other("the socket is full")) }
}

/// What has arrived on the handler's side: so many bytes, and a socket when one came along.
pub(in crate::compute) fn receive(from: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [0; rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok((received.bytes, sockets.flatten().next()))
}
