use std::path::Path;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::house::House;

const PROFILES: [&str; 7] = ["auto", "strict", "aws", "azure", "gcp", "oci", "sample"];

/// FNV-1a: enough to notice a changed byte.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn decompressed(reader: impl AsyncRead) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut bytes = Vec::new();
    runtime.block_on(std::pin::pin!(reader).read_to_end(&mut bytes)).expect("decompressed");
    bytes
}

#[test]
fn the_same_arguments_make_the_same_bytes_for_ever() {
    let house = House::new();
    // These are a promise: a change here breaks who keeps a report by its arguments.
    let promised: [u64; 7] = [
        0x63b2_31f2_05fe_55e8,
        0xacd0_052b_b7a3_9ebe,
        0xc57d_e5e3_95a2_04e9,
        0xc90a_0a23_3ef2_564d,
        0x9cd4_d5a2_7d77_8d01,
        0x3a9d_88d1_93bc_d159,
        0x9c26_0dd3_38a0_e584,
    ];
    let found = PROFILES.map(|profile| {
        let report = house.report("report.csv", 1_000, 7, profile);
        fingerprint(&std::fs::read(report).expect("a report"))
    });
    assert_eq!(found, promised);
}

#[test]
fn a_suffix_compresses_and_changes_nothing() {
    let house = House::new();
    let read = |name: &str| std::fs::read(house.report(name, 500, 1, "auto")).expect("a report");
    let plain = read("a.csv");
    assert_eq!(decompressed(GzipDecoder::new(read("a.csv.gz").as_slice())), plain);
    assert_eq!(decompressed(ZstdDecoder::new(read("a.csv.zst").as_slice())), plain);
    let out =
        house.command(&["generate", "--rows", "500", "--seed", "1", "--out", "-"]).output().expect("started").stdout;
    assert!(out == plain, "standard output is the same report");
}

#[test]
fn the_shipped_sample_is_what_the_generator_makes() {
    let house = House::new();
    let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/sample/focus.csv.gz"))
        .expect("the sample");
    let made = std::fs::read(house.report("focus.csv", 6_000, 42, "auto")).expect("a report");
    assert!(
        decompressed(GzipDecoder::new(shipped.as_slice())) == made,
        "costream generate --rows 6000 --seed 42 makes another"
    );
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let house = House::new();
    let ran = house.run(&["generate", "--rows", "1", "--seed", "1", "--out", "missing/a.csv"]).ended(1);
    assert!(ran.complaints().len() == 1 && ran.err.contains("missing/a.csv"), "{}", ran.err);
}
