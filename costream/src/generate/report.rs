//! A report's bytes, one chunk at a time: header, then charges in order of billing period.
//! Holds one chunk and the world (some hundreds of resources), however many rows are asked for.
//!
//! Every row is a good one. About one in ninety is its predecessor once more: two charges.

use costream_exporter::profile::ProfileName;

use super::catalog::{self, PERIODS, Provider, ProviderKind};
use super::charge::Charge;
use super::dialect::{self, Column, Dialect};
use super::random::SplitMix64;
use super::world::World;

/// How large a chunk may grow before it is handed over, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// One in so many rows is its predecessor again.
const REPEATED: u64 = 89;

/// What a report looks like as a whole.
struct Layout {
    providers: &'static [&'static Provider],
    columns: Vec<Column>,
    byte_order_mark: bool,
    line_end: &'static [u8],
    dialects: fn(&Charge<'_>, row: u64) -> &'static Dialect,
}

impl Layout {
    fn of(profile: ProfileName) -> Self {
        const ONE_OF: [&[&Provider]; 4] = [&[&catalog::AWS], &[&catalog::AZURE], &[&catalog::GCP], &[&catalog::OCI]];
        const THREE: &[&Provider] = &[&catalog::AWS, &catalog::AZURE, &catalog::GCP];
        let focus_1_0 = Column::FOCUS_1_0.to_vec();
        let focus_1_2: Vec<_> = Column::FOCUS_1_0.into_iter().chain(Column::FOCUS_1_2_MORE).collect();
        let with = |columns: Vec<Column>, more: &[Column]| columns.into_iter().chain(more.iter().copied()).collect();
        let unix = Self {
            providers: THREE,
            columns: Vec::new(),
            byte_order_mark: false,
            line_end: b"\n",
            dialects: |_, _| &dialect::STRICT,
        };
        match profile {
            ProfileName::Strict => Self { columns: focus_1_2, ..unix },
            ProfileName::Aws => Self {
                providers: ONE_OF[0],
                columns: with(
                    focus_1_2,
                    &[
                        Column::XCostCategories,
                        Column::XDiscounts,
                        Column::XOperation,
                        Column::XServiceCode,
                        Column::XUsageType,
                    ],
                ),
                dialects: |_, _| &dialect::AWS,
                ..unix
            },
            ProfileName::Azure => Self {
                providers: ONE_OF[1],
                columns: with(
                    focus_1_0,
                    &[
                        Column::XBilledCostInUsd,
                        Column::XBillingExchangeRate,
                        Column::XCostCenter,
                        Column::XResourceGroupName,
                        Column::XSkuMeterName,
                    ],
                ),
                byte_order_mark: true,
                line_end: b"\r\n",
                dialects: |_, row| if row % 8 == 5 { &dialect::AZURE_COLONS } else { &dialect::AZURE },
            },
            ProfileName::Gcp => Self {
                providers: ONE_OF[2],
                columns: with(focus_1_0, &[Column::XCostType, Column::XProjectId]),
                dialects: |_, _| &dialect::GCP,
                ..unix
            },
            ProfileName::Oci => Self {
                providers: ONE_OF[3],
                columns: with(
                    focus_1_0,
                    &[
                        Column::OciReferenceNumber,
                        Column::OciCompartmentId,
                        Column::OciCompartmentName,
                        Column::OciOverageFlag,
                    ],
                ),
                dialects: |_, _| &dialect::OCI,
                ..unix
            },
            ProfileName::Sample => Self {
                // The foundation's sample has a column of its own before the service's name.
                columns: focus_1_0
                    .into_iter()
                    .flat_map(|c| if c == Column::ServiceName { vec![Column::Id, c] } else { vec![c] })
                    .collect(),
                dialects: |_, row| if row % 50 == 17 { &dialect::SAMPLE_EXPONENTS } else { &dialect::SAMPLE },
                ..unix
            },
            ProfileName::Auto => Self {
                columns: with(
                    focus_1_2,
                    // None that only one provider writes: nobody shall take the mix for one provider's.
                    &[Column::XCostCenter, Column::XBilledCostInUsd, Column::XBillingExchangeRate, Column::XProjectId],
                ),
                byte_order_mark: true,
                dialects: |charge, row| match (row % 16, charge.provider.kind) {
                    (3, _) => &dialect::SAMPLE,
                    (7, _) => &dialect::SAMPLE_EXPONENTS,
                    (11, _) => &dialect::OCI,
                    (_, ProviderKind::Aws) => &dialect::AWS,
                    (5 | 13, ProviderKind::Azure) => &dialect::AZURE_COLONS,
                    (_, ProviderKind::Azure) => &dialect::AZURE,
                    (_, ProviderKind::Gcp | ProviderKind::Oci) => &dialect::GCP,
                },
                ..unix
            },
        }
    }
}

/// A report being written.
pub(crate) struct Report {
    layout: Layout,
    world: World,
    seed: u64,
    rows: u64,
    next_row: u64,
    line: Vec<u8>,
}

impl Report {
    /// The report of `rows` rows that `seed` makes.
    pub(crate) fn new(rows: u64, seed: u64, profile: ProfileName) -> Self {
        let layout = Layout::of(profile);
        let world = World::new(seed, layout.providers);
        Self { layout, world, seed, rows, next_row: 0, line: Vec::new() }
    }

    /// Appends the next rows to `chunk`: some 256 KiB. False when there was nothing left.
    pub(crate) fn write_chunk(&mut self, chunk: &mut Vec<u8>) -> bool {
        if self.next_row > self.rows {
            return false;
        }
        while self.next_row <= self.rows && chunk.len() < CHUNK_BYTES {
            if self.next_row == 0 {
                self.write_header(chunk);
            } else {
                self.write_row(self.next_row);
                chunk.extend_from_slice(&self.line);
            }
            self.next_row += 1;
        }
        true
    }

    fn write_header(&mut self, chunk: &mut Vec<u8>) {
        if self.layout.byte_order_mark {
            chunk.extend_from_slice("\u{feff}".as_bytes());
        }
        for (nth, column) in self.layout.columns.iter().enumerate() {
            if nth > 0 {
                chunk.push(b',');
            }
            chunk.extend_from_slice(column.name().as_bytes());
        }
        chunk.extend_from_slice(self.layout.line_end);
    }

    /// Leaves row `row` (from 1) in `line`.
    fn write_row(&mut self, row: u64) {
        if row.is_multiple_of(REPEATED) {
            return;
        }
        let period = u128::from(row - 1) * 3 / u128::from(self.rows);
        let period = usize::try_from(period).unwrap_or(0).min(PERIODS.len() - 1);
        let mut random = SplitMix64::new(self.seed, row);
        let charge = Charge::new(&self.world, period, &mut random);
        let dialect = (self.layout.dialects)(&charge, row);
        self.line.clear();
        for (nth, column) in self.layout.columns.iter().enumerate() {
            if nth > 0 {
                self.line.push(b',');
            }
            dialect.write(*column, &charge, row, &mut self.line);
        }
        self.line.extend_from_slice(self.layout.line_end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(rows: u64, seed: u64, profile: ProfileName) -> Vec<u8> {
        let mut report = Report::new(rows, seed, profile);
        let (mut all, mut chunk) = (Vec::new(), Vec::new());
        while report.write_chunk(&mut chunk) {
            assert!(chunk.len() < 2 * CHUNK_BYTES, "a chunk stays small");
            all.append(&mut chunk);
        }
        all
    }

    #[test]
    fn the_same_arguments_make_the_same_bytes() {
        assert_eq!(bytes(2_000, 7, ProfileName::Auto), bytes(2_000, 7, ProfileName::Auto));
        assert_ne!(bytes(100, 7, ProfileName::Auto), bytes(100, 8, ProfileName::Auto));
        assert_eq!(bytes(0, 7, ProfileName::Strict).iter().filter(|b| **b == b'\n').count(), 1, "a header alone");
    }
}
