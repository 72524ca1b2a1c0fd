//! The rate of a wire, as given to tc(8).

use std::fmt;
use std::str::FromStr;

/// Units of tc(8), in bits per second. The decimal ones only: those are what links are called by.
const UNITS: [(&str, f64); 3] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];

/// So much of a unit: `100mbit`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    number: f64,
    unit: (&'static str, f64),
}

impl Rate {
    /// So many millions of bits per second.
    pub(super) const fn mbit(number: u32) -> Self {
        Self { number: number as f64, unit: UNITS[1] }
    }

    pub(super) fn bytes_per_second(self) -> f64 {
        self.number * self.unit.1 / 8.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.unit.0)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = UNITS.into_iter().find_map(|unit| Some((text.strip_suffix(unit.0)?, unit)));
        let rate = known.and_then(|(number, unit)| Some(Self { number: number.parse().ok()?, unit }));
        rate.filter(|rate| rate.number > 0.0).ok_or_else(|| format!("{text} is no rate like 100mbit or 1gbit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tc_reads() {
        assert_eq!("100mbit".parse(), Ok(Rate::mbit(100)));
        assert_eq!("1gbit".parse::<Rate>().map(Rate::bytes_per_second), Ok(125e6));
        assert_eq!("2.5gbit".parse::<Rate>().map(|rate| rate.to_string()), Ok("2.5gbit".to_owned()));
        assert!("100".parse::<Rate>().is_err() && "-1mbit".parse::<Rate>().is_err());
    }
}
