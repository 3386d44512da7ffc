//! A fixed address before a program that comes and goes: programs listen on a free port of their
//! own each time, and their peers find them here. Nobody behind it looks like a server that closes
//! the connection; told so, it breaks connections in the middle.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::programs::{Log, runtime};

/// What is carried at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// The address, and whoever is behind it.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    behind: Option<Behind>,
    /// Connections still to be reset, each after so many bytes of its larger direction.
    cuts: Vec<u64>,
    /// Connections that were reset so.
    n_cut: u64,
    /// Connections that are held from now on: each stands still once it has carried so many bytes.
    hold_after: Option<u64>,
    /// Connections that stand still.
    n_held: u64,
    /// Requests still to be answered here, with 503.
    busy: u64,
}

/// A program that says in its log where it listens.
#[derive(Clone, Debug)]
struct Behind {
    log: Log,
    mark: &'static str,
}

impl Front {
    /// Takes an address.
    ///
    /// # Errors
    /// There is no free port.
    pub fn open() -> Result<Self> {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).context("listen")?;
        let address = listener.local_addr().context("ask for the address")?;
        let state = Arc::<Mutex<State>>::default();
        let serving = runtime().spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(carry(stream, Arc::clone(&state)));
                }
            }
        });
        Ok(Self { address, state, serving })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads to the program that prints its address after `mark`.
    pub fn lead_to(&self, log: Log, mark: &'static str) {
        locked(&self.state).behind = Some(Behind { log, mark });
    }

    /// Leads nowhere.
    pub fn close(&self) {
        locked(&self.state).behind = None;
    }

    /// Resets the next connections, each once so many bytes have passed in one direction.
    pub fn cut(&self, after_bytes: impl IntoIterator<Item = u64>) {
        locked(&self.state).cuts.extend(after_bytes);
    }

    /// From now on connections stand still once they have carried so many bytes more in one direction:
    /// nothing moves, and nothing is closed.
    pub fn hold_after(&self, bytes: u64) {
        locked(&self.state).hold_after = Some(bytes);
    }

    /// How many connections stand still, or stood.
    pub fn n_held(&self) -> u64 {
        locked(&self.state).n_held
    }

    /// New connections are not held any more.
    pub fn release(&self) {
        locked(&self.state).hold_after = None;
    }

    /// Answers the next requests itself: 503, come back in a second.
    pub fn be_busy(&self, requests: u64) {
        locked(&self.state).busy += requests;
    }

    /// Requests that are still to be answered so.
    pub fn busy_left(&self) -> u64 {
        locked(&self.state).busy
    }

    /// How many connections were reset so.
    pub fn n_cut(&self) -> u64 {
        locked(&self.state).n_cut
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(mut near: TcpStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    if is_busy(&state) {
        return turn_away(&mut near).await;
    }
    let behind = locked(&state).behind.clone();
    let address = behind.and_then(|behind| behind.log.word_after(behind.mark).ok().flatten());
    let Some(address) = address else { return near.set_zero_linger() };
    let Ok(mut far) = TcpStream::connect(address.trim_start_matches("http://")).await else {
        return near.set_zero_linger();
    };
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let carried = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        tokio::try_join!(one_way(near_in, far_out, &state), one_way(far_in, near_out, &state))
    };
    if carried.is_err() {
        // As it would be without us in between: reset.
        near.set_zero_linger()?;
        far.set_zero_linger()?;
    }
    Ok(())
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &Mutex<State>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut carried, mut held_from) = (0, None);
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        carried += read as u64;
        let hold_after = locked(state).hold_after;
        if hold_after.is_some_and(|after| carried - *held_from.get_or_insert(carried - read as u64) > after) {
            locked(state).n_held += 1;
            std::future::pending::<()>().await;
        }
        if is_cut(state, carried) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        to.write_all(&chunk[..read]).await?;
    }
}

fn is_busy(state: &Mutex<State>) -> bool {
    let mut state = locked(state);
    let is_busy = state.busy > 0;
    state.busy = state.busy.saturating_sub(1);
    is_busy
}

/// Says 503 to a request, whatever it is, and takes in what is still sent.
async fn turn_away(near: &mut TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    if near.read(&mut chunk).await? > 0 {
        let answer = "HTTP/1.1 503 Scripted\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        near.write_all(answer.as_bytes()).await?;
        near.shutdown().await?;
    }
    while near.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// Whether a connection that has carried so much is one to be reset.
fn is_cut(state: &Mutex<State>, carried: u64) -> bool {
    let mut state = locked(state);
    let Some(at) = state.cuts.iter().position(|after| *after <= carried) else { return false };
    state.cuts.remove(at);
    state.n_cut += 1;
    true
}
