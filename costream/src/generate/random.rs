//! Random numbers that are the same on every machine and for ever: the bytes of a generated
//! report are a promise, so the generator is written out here and no library's next version
//! can change it.

/// SplitMix64 (Steele, Lea, Flood, 2014), public domain: a counter through a mixing function.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl SplitMix64 {
    /// The numbers of `seed`'s stream `stream`; streams are unrelated to each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut own = Self(seed);
        let key = own.next();
        Self(key ^ mixed(stream.wrapping_mul(GOLDEN_GAMMA)))
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mixed(self.0)
    }

    /// A number below `end`, which is not nought.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number from `low` up to and with `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `permille` of a thousand cases.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `items`, which are not none.
    pub(crate) fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        let at = self.next() % u64::try_from(items.len()).unwrap_or(u64::MAX);
        &items[usize::try_from(at).unwrap_or(0)]
    }

    /// `digits` lower-case hexadecimal digits, at most 16.
    pub(crate) fn hex(&mut self, digits: usize) -> String {
        format!("{:016x}", self.next())[..digits].to_owned()
    }

    /// A UUID's form.
    pub(crate) fn uuid(&mut self) -> String {
        format!("{}-{}-4{}-a{}-{}", self.hex(8), self.hex(4), self.hex(3), self.hex(3), self.hex(12))
    }

    /// `digits` decimal digits, the first not nought, at most 18.
    pub(crate) fn number(&mut self, digits: u32) -> String {
        let low = 10_u64.pow(digits - 1);
        self.between(low, low * 10 - 1).to_string()
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // The reference implementation's first numbers for the seed 1234567.
        let mut random = SplitMix64(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(SplitMix64::new(42, 0).next(), SplitMix64::new(42, 1).next());
        assert_ne!(SplitMix64::new(42, 0).next(), SplitMix64::new(43, 0).next());
        assert_eq!(SplitMix64::new(42, 7).next(), SplitMix64::new(42, 7).next());
    }
}
