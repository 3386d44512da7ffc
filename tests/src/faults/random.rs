//! Numbers that a seed makes, the same on every machine and for ever: a failing seed stays a
//! failing seed.

/// SplitMix64 (Steele, Lea, Flood, 2014), public domain.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed for one purpose; those for another are unrelated.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut own = Self(seed);
        for byte in purpose.bytes() {
            own = Self(own.next() ^ u64::from(byte));
        }
        own
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` up to and with `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of `items`, which are not none.
    pub fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        let at = self.next() % items.len().max(1) as u64;
        &items[usize::try_from(at).unwrap_or_default()]
    }
}
