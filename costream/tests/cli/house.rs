//! What the tests share: runs of the binary, a directory of their own, and the oracle.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use bigdecimal::BigDecimal;
use tempfile::TempDir;

/// The longest that anything here may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The lines that say what went wrong.
    pub(crate) fn complaints(&self) -> Vec<&str> {
        self.err.lines().filter(|line| line.starts_with("costream: ")).collect()
    }

    /// Ended with this status.
    #[track_caller]
    pub(crate) fn ended(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "out: {}\nerr: {}", self.out, self.err);
        self
    }
}

/// A directory with a data directory in it.
pub(crate) struct House {
    dir: TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// A command in this directory; the data directory is the default one.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_costream"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().expect("the binary starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// A generated report.
    pub(crate) fn report(&self, name: &str, rows: u64, seed: u64, profile: &str) -> PathBuf {
        let (rows, seed) = (rows.to_string(), seed.to_string());
        self.run(&["generate", "--rows", &rows, "--seed", &seed, "--profile", profile, "--out", name]).ended(0);
        self.path(name)
    }

    /// What the store has, by SQL, as the oracle has it.
    pub(crate) fn stored(&self, more: &[&str]) -> Sums {
        let statement = "SELECT billingperiodstart, billingcurrency, count(*), sum(billedcost), sum(effectivecost), sum(listcost), \
                         sum(contractedcost) FROM costs GROUP BY billingperiodstart, billingcurrency";
        let mut args = vec!["sql", statement, "--format", "csv"];
        args.extend(more);
        let ran = self.run(&args).ended(0);
        let mut sums = Sums::new();
        for record in csv::Reader::from_reader(ran.out.as_bytes()).records() {
            let record = record.expect("our own csv");
            assert!(record[0].ends_with("-01T00:00:00Z"), "{record:?}");
            // A sum over nothing but nulls is a null.
            let cost = |at: usize| match &record[at] {
                "" => BigDecimal::default(),
                text => BigDecimal::from_str(text).expect("a decimal").normalized(),
            };
            let sum = Sum { rows: record[2].parse().expect("a count"), costs: [3, 4, 5, 6].map(cost) };
            sums.insert((record[0][..7].to_owned(), record[1].to_owned()), sum);
        }
        sums
    }
}

/// Rows and the four costs, by month and currency.
pub(crate) type Sums = BTreeMap<(String, String), Sum>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) rows: u64,
    pub(crate) costs: [BigDecimal; 4],
}

/// The same by another hand, from a report's text: no line of ours is in it.
pub(crate) fn oracle(reports: &[&Path]) -> Sums {
    let mut sums = Sums::new();
    for report in reports {
        let bytes = std::fs::read(report).expect("a report");
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let header = reader.headers().expect("a header").clone();
        let at = |name: &str| header.iter().position(|column| column == name).expect("a column");
        let costs = ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"].map(at);
        let (period, currency) = (at("BillingPeriodStart"), at("BillingCurrency"));
        for record in reader.records() {
            let record = record.expect("a record");
            let sum = sums.entry((month(&record[period]), record[currency].to_owned())).or_default();
            sum.rows += 1;
            for (sum, at) in sum.costs.iter_mut().zip(costs) {
                let text = &record[at];
                if !matches!(text, "" | "NULL") {
                    *sum = (&*sum + BigDecimal::from_str(text).expect("a decimal")).normalized();
                }
            }
        }
    }
    sums
}

fn month(text: &str) -> String {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [month, _, year] => format!("{year}-{month}"),
        _ => text[..7].to_owned(),
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A `costream run` that goes on until it is told to end.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
}

impl Running {
    /// Starts, and waits until it shows its addresses.
    pub(crate) fn start(house: &House, args: &[&str]) -> Self {
        let out = house.path("out.txt");
        let file = std::fs::File::create(&out).expect("a file");
        let free = ["--exporter.listen-address", "127.0.0.1:0", "--handler.listen-address", "127.0.0.1:0"];
        let args: Vec<_> = ["run"].iter().chain(args).chain(&free).copied().collect();
        let child = house.command(&args).stdout(file).stderr(Stdio::inherit()).spawn().expect("the binary starts");
        let mut running = Self { child, out };
        wait_for("the addresses", || {
            assert!(running.child.try_wait().expect("a child").is_none(), "ended early: {}", running.printed());
            running.printed().contains("Ctrl-C").then_some(())
        });
        running
    }

    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.out).expect("what it printed")
    }

    /// The address of `exporter` or `handler`.
    pub(crate) fn url(&self, role: &str) -> String {
        let printed = self.printed();
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(role));
        line.and_then(|line| line.split_whitespace().last()).expect("an address").to_owned()
    }

    /// Ends it as a service manager does.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        wait_for("the end", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that answers each request with the same status and body.
pub(crate) fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}
