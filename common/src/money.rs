//! Exact money: text in, [`Amount`] (DECIMAL(38,18)) out, and back without losing a digit.
//! More digits than fit are refused, never rounded. [`Sum`] adds amounts beyond 38 digits,
//! so that a control total cannot overflow. Neither type has a way from `f64`.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::i256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Decimal digits of an amount, in all: CrateDB's and Delta Lake's widest decimal.
pub const PRECISION: u8 = 38;
/// Decimal digits of an amount after the point.
pub const SCALE: i8 = 18;

const SCALE_DIGITS: usize = 18;
const ONE: i128 = 10_i128.pow(18);
const MAX_UNITS: i128 = 10_i128.pow(38) - 1;
/// Integers below this are exact in a double.
const EXACT_IN_F64: u128 = 1 << 53;
/// The longest exponent worth reading: any larger one cannot fit 38 digits.
const MAX_EXPONENT: i32 = 100_000;

/// An amount of money or a quantity, exact: a count of 10^-18 units, at most 38 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Why a text is no [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number, with or without an exponent.
    #[error("not a decimal number")]
    NotANumber,
    /// A digit other than zero stands beyond the 18th decimal place.
    #[error("more than 18 decimal places")]
    TooPrecise,
    /// The number does not fit 20 digits before the point.
    #[error("more than 20 digits before the point")]
    TooLarge,
}

impl Amount {
    /// Reads `[+-]digits[.digits][e[+-]digits]`, the form of FOCUS's numeric format. Nothing is
    /// trimmed: blanks, thousands separators, `NaN` and currency signs are not numbers.
    ///
    /// # Errors
    /// The text is no number, or has more digits than DECIMAL(38,18) holds (zeros at either
    /// end do not count).
    pub fn parse(text: &[u8]) -> Result<Self, AmountError> {
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if let Some(units) = parse_short(unsigned) {
            return Ok(Self(if negative { -units } else { units }));
        }
        let (mantissa, exponent) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
            None => (unsigned, 0),
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
        };
        let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
            None => (mantissa, &[][..]),
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(AmountError::NotANumber);
        }

        // `place` is the power of ten of the digit at hand; digits below 10^-18 must be zero.
        let mut place = i64::try_from(whole.len()).map_err(|_| AmountError::TooLarge)? - 1 + i64::from(exponent);
        let mut units: i128 = 0;
        let mut too_precise = false;
        let mut too_large = false;
        for digit in whole.iter().chain(fraction) {
            if !digit.is_ascii_digit() {
                return Err(AmountError::NotANumber);
            }
            let digit = i128::from(digit - b'0');
            if place >= -i64::from(SCALE) {
                match units.checked_mul(10).and_then(|u| u.checked_add(digit)) {
                    Some(more) => units = more,
                    None => too_large = true,
                }
            } else if digit != 0 {
                too_precise = true;
            }
            place -= 1;
        }
        if too_large {
            return Err(AmountError::TooLarge);
        }
        if too_precise {
            return Err(AmountError::TooPrecise);
        }
        // The last digit stood at `place + 1`: fill up with zeros to the 18th decimal place.
        if units != 0 {
            for _ in 0..(place + 1 + i64::from(SCALE)).max(0) {
                units = units.checked_mul(10).ok_or(AmountError::TooLarge)?;
            }
        }
        if units > MAX_UNITS {
            return Err(AmountError::TooLarge);
        }
        Ok(Self(if negative { -units } else { units }))
    }

    /// The amount as a count of 10^-18, as Arrow's `Decimal128(38, 18)` holds it.
    pub fn units(self) -> i128 {
        self.0
    }

    /// The amount of `units` times 10^-18; nothing when it has more than 38 digits.
    pub fn from_units(units: i128) -> Option<Self> {
        (units.unsigned_abs() <= MAX_UNITS.unsigned_abs()).then_some(Self(units))
    }

    /// The double nearest to the amount. For an exposition's value column and nothing else.
    pub fn to_f64(self) -> f64 {
        if self.0.unsigned_abs() < EXACT_IN_F64 {
            #[expect(clippy::cast_precision_loss, reason = "both operands are exact, so one division rounds once")]
            return self.0 as f64 / ONE as f64;
        }
        // A decimal text always parses as a double.
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

/// The most digits that a `u64` holds whatever they are.
const SHORT_DIGITS: usize = 19;

/// The units of what nearly every amount is: up to 19 plain digits, at most 18 of them behind
/// the point. Several times faster than the general way; nothing for all else, good or bad.
fn parse_short(unsigned: &[u8]) -> Option<i128> {
    if unsigned.len() > SHORT_DIGITS + ".".len() {
        return None;
    }
    let mut value: u64 = 0;
    let mut n_digits = 0;
    let mut n_digits_at_point = None;
    for byte in unsigned {
        match byte {
            b'0'..=b'9' if n_digits < SHORT_DIGITS => {
                value = value * 10 + u64::from(byte - b'0');
                n_digits += 1;
            }
            b'.' if n_digits_at_point.is_none() => n_digits_at_point = Some(n_digits),
            _ => return None,
        }
    }
    let places = n_digits_at_point.map_or(0, |at_point| n_digits - at_point);
    let missing_places = u32::try_from(SCALE_DIGITS.checked_sub(places)?).ok()?;
    (n_digits > 0).then(|| i128::from(value) * 10_i128.pow(missing_places))
}

fn parse_exponent(text: &[u8]) -> Result<i32, AmountError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return Err(AmountError::NotANumber);
    }
    let mut exponent = 0_i32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(AmountError::NotANumber);
        }
        exponent = (exponent * 10 + i32::from(digit - b'0')).min(MAX_EXPONENT);
    }
    Ok(if negative { -exponent } else { exponent })
}

/// Plain decimal text: no exponent, no digits lost, no zeros at the end.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_units(f, self.0)
    }
}

fn write_units(f: &mut fmt::Formatter<'_>, units: i128) -> fmt::Result {
    let magnitude = units.unsigned_abs();
    let whole = magnitude / ONE.unsigned_abs();
    let mut fraction = u64::try_from(magnitude % ONE.unsigned_abs()).expect("below 10^18");
    f.write_str(if units < 0 { "-" } else { "" })?;
    // Nearly all fit, and 64 bits are written several times faster.
    match u64::try_from(whole) {
        Ok(whole) => write!(f, "{whole}")?,
        Err(_) => write!(f, "{whole}")?,
    }
    if fraction == 0 {
        return Ok(());
    }
    let mut digits = SCALE_DIGITS;
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        digits -= 1;
    }
    write!(f, ".{fraction:0digits$}")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, negative: bool, whole: &str, fraction: &str) -> fmt::Result {
    let fraction = fraction.trim_end_matches('0');
    let sign = if negative { "-" } else { "" };
    if fraction.is_empty() { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{fraction}") }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::parse(text.as_bytes())
    }
}

/// An exact sum of [`Amount`]s: 10^-18 units in 256 bits, which 2^128 amounts cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum(i256);

impl Default for Sum {
    fn default() -> Self {
        Self(i256::ZERO)
    }
}

impl Sum {
    /// Adds an amount.
    pub fn add(&mut self, amount: Amount) {
        self.0 = self.0.wrapping_add(i256::from_i128(amount.0));
    }

    /// Adds another sum.
    pub fn add_sum(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// `self - other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// Whether the sum is exactly nought.
    pub fn is_zero(self) -> bool {
        self.0 == i256::ZERO
    }

    /// The double nearest to the sum, for an exposition's value column.
    pub fn to_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

impl From<Amount> for Sum {
    fn from(amount: Amount) -> Self {
        Self(i256::from_i128(amount.0))
    }
}

/// Plain decimal text, as [`Amount`]'s.
impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As every sum of a real bill: 256 bits are divided many times as slowly.
        if let Some(units) = self.0.to_i128() {
            return write_units(f, units);
        }
        let text = self.0.to_string();
        let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_str()), |d| (true, d));
        let padded = format!("{digits:0>width$}", width = SCALE_DIGITS + 1);
        let (whole, fraction) = padded.split_at(padded.len() - SCALE_DIGITS);
        write_decimal(f, negative, whole, fraction)
    }
}

impl FromStr for Sum {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        if whole.is_empty()
            || fraction.len() > SCALE_DIGITS
            || !format!("{whole}{fraction}").bytes().all(|b| b.is_ascii_digit())
        {
            return Err(AmountError::NotANumber);
        }
        let sign = if negative { "-" } else { "" };
        i256::from_string(&format!("{sign}{whole}{fraction:0<SCALE_DIGITS$}")).map(Self).ok_or(AmountError::TooLarge)
    }
}

/// As decimal text in quotes: a JSON number would go through a double in most readers.
impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(text: &str) -> Result<String, AmountError> {
        Amount::parse(text.as_bytes()).map(|a| a.to_string())
    }

    #[test]
    fn amounts_are_read_exactly() {
        for (text, shown) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.00000080000", "0.0000008"),
            ("-2.16e-07", "-0.000000216"),
            ("+1.5", "1.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1E3", "1000"),
            ("12e-1", "1.2"),
            ("0e999999999999", "0"),
            ("0.0e-30", "0"),
            ("10000000000000000000000e-3", "10000000000000000000"),
            ("12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("1.50000000000000000000000000", "1.5"),
            ("1000000000000000000000e-21", "1"),
            ("00000000000000000000000000000000000000000000001", "1"),
        ] {
            assert_eq!(amount(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, error) in [
            ("0.0000000000000000001", AmountError::TooPrecise),
            ("1e-19", AmountError::TooPrecise),
            ("123456789012345678901", AmountError::TooLarge),
            ("1e20", AmountError::TooLarge),
            ("1e999999999", AmountError::TooLarge),
            ("", AmountError::NotANumber),
            ("-", AmountError::NotANumber),
            (".", AmountError::NotANumber),
            ("1e", AmountError::NotANumber),
            ("1,000", AmountError::NotANumber),
            (" 1", AmountError::NotANumber),
            ("NaN", AmountError::NotANumber),
            ("1.2.3", AmountError::NotANumber),
            ("1e+-2", AmountError::NotANumber),
            ("$1", AmountError::NotANumber),
        ] {
            assert_eq!(amount(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sums_go_beyond_38_digits() {
        let mut sum = Sum::default();
        let most = Amount(MAX_UNITS);
        for _ in 0..2 {
            sum.add(most);
        }
        assert_eq!(sum.to_string(), "199999999999999999999.999999999999999998");
        assert_eq!(sum.to_string().parse::<Sum>(), Ok(sum));
        assert!(sum.minus(sum).is_zero());
    }

    proptest! {
        #[test]
        fn text_round_trips(units in -MAX_UNITS..=MAX_UNITS) {
            let amount = Amount(units);
            prop_assert_eq!(Amount::parse(amount.to_string().as_bytes()), Ok(amount));
            prop_assert_eq!(amount.to_string().parse::<Sum>(), Ok(Sum::from(amount)));
            prop_assert_eq!(amount.to_f64(), amount.to_string().parse::<f64>().expect("decimal text is a double"));
        }

        #[test]
        fn what_is_read_is_what_an_independent_reader_reads(text in "[-+]?[0-9]{0,24}[.]?[0-9]{0,24}([eE][-+]?[0-9]{1,3})?") {
            if let Ok(amount) = Amount::parse(text.as_bytes()) {
                let oracle: bigdecimal::BigDecimal = text.parse().expect("what we read, an independent reader reads");
                let ours: bigdecimal::BigDecimal = amount.to_string().parse().expect("our own text");
                prop_assert_eq!(ours, oracle);
            }
        }

        #[test]
        fn what_is_refused_does_not_fit(text in "[-+]?[0-9]{1,22}([.][0-9]{1,20})?(0{0,30})([eE][-+]?[0-9]{1,2})?") {
            let oracle: bigdecimal::BigDecimal = text.parse().expect("a number");
            let (digits, places) = oracle.normalized().into_bigint_and_exponent();
            let whole = digits.to_string().trim_start_matches('-').len() as i64 - places;
            let fits = places <= i64::from(SCALE) && whole <= i64::from(PRECISION) - i64::from(SCALE);
            prop_assert_eq!(Amount::parse(text.as_bytes()).is_ok(), fits, "{}", text);
        }
    }
}
