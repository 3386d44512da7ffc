//! What the handler tells a launcher, and what it hears back: frames of JSON on one socket, which is the launcher's
//! standard input. A credential crosses here and nowhere else: no argument and no variable of any program holds one.
//!
//! A frame is its length in four bytes, most significant first, and so many bytes of JSON, [`MAX_FRAME_BYTES`] at
//! most. The handler sends an [`Order`] twice, to the keeper and to what becomes the notebook's interpreter, and then
//! the frame that the interpreter itself reads. [`Told`] comes back.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest frame: a notebook and its parameters, in JSON's escapes.
pub(crate) const MAX_FRAME_BYTES: usize = 64 << 20;

/// How far from everything else a run is kept. Each tier has what the one before it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Limits, a session and an empty environment of its own. It reads and reaches what the handler's user does.
    Limits,
    /// No new privileges, Landlock, seccomp; when the handler is root, a user of its own.
    Confined,
    /// A root directory, processes, and a network of its own, in which there is the gateway alone.
    Isolated,
}

impl Tier {
    /// As configurations and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Confined => "confined",
            Self::Isolated => "isolated",
        }
    }
}

/// Whom a run may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The gateway alone.
    #[default]
    Deny,
    /// Whom the handler's machine can reach.
    Allow,
}

/// What one run may use, in the system's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allowed {
    pub(crate) cpu_seconds: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u64,
    pub(crate) open_files: u64,
    pub(crate) file_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) files: u64,
}

/// One run, as the launcher needs to know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) tier: Tier,
    pub(crate) network: Network,
    /// The user and group to become; nothing when the handler may not choose.
    pub(crate) uid: Option<u32>,
    /// The run's own directory, empty.
    pub(crate) folder: PathBuf,
    /// What may be read beside it.
    pub(crate) reads: Vec<PathBuf>,
    /// The gateway's port: in a network of its own it is taken there.
    pub(crate) port: u16,
    pub(crate) allowed: Allowed,
    /// The interpreter, its arguments and its whole environment.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

/// The run's directory, as a run with a root of its own sees it.
const OWN_WORK: &str = "/notebook";

impl Order {
    /// The run's directory, as the run sees it.
    pub(crate) fn work(&self) -> PathBuf {
        match self.tier {
            Tier::Isolated => OWN_WORK.into(),
            Tier::Confined | Tier::Limits => self.folder.clone(),
        }
    }
}

/// What a launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// The gateway's socket comes with this frame.
    Gateway,
    /// The number of the first process of the run, as the handler sees it.
    Child(i32),
    /// All fences stand; the interpreter begins.
    Ready(Fences),
    /// The run cannot begin.
    Failed {
        /// What was attempted.
        step: String,
        /// What the system said.
        cause: String,
    },
    /// Nothing of the run is left but its directory.
    Ended(End),
}

/// What keeps a run in, beyond its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fences {
    pub(crate) own_uid: bool,
    pub(crate) no_new_privileges: bool,
    /// The version of Landlock in force; nought when it is not.
    pub(crate) landlock_abi: u32,
    pub(crate) seccomp: bool,
    pub(crate) namespaces: bool,
    /// The run sees processes, its own, in `/proc`.
    pub(crate) proc: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// The limit that it was stopped at.
    pub(crate) beyond: Option<Beyond>,
}

/// A limit that a run went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Beyond {
    CpuTime,
    Memory,
    Processes,
    Disk,
    Files,
}

/// Reads a frame, and not a byte more. Nothing at the stream's end.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut frame = vec![0; length_of(length)?];
    from.read_exact(&mut frame)?;
    Ok(Some(serde_json::from_slice(&frame)?))
}

/// The length that a frame says it has.
pub(crate) fn length_of(bytes: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_be_bytes(bytes))
        .ok()
        .filter(|length| *length <= MAX_FRAME_BYTES)
        .ok_or_else(|| io::Error::other("a frame is too long"))
}

/// A value as a frame.
pub(crate) fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    let told = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME_BYTES);
    let told = told.ok_or_else(|| io::Error::other("a frame is too long"))?;
    frame[..4].copy_from_slice(&told.to_be_bytes());
    Ok(frame)
}

/// Writes a frame.
pub(crate) fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(value)?)
}
