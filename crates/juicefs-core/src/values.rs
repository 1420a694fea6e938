//! The grammar of values that people write in flags, environment variables and addresses: durations, sizes, bandwidths
//! and numbers, in every form that JuiceFS (Go) takes.
//!
//! All functions are pure. They take a text, and give a value or one sentence that says what is wrong.

use std::time::Duration;

const SIZE_UNITS: &[u8] = b"BKMGTPE";

/// Parses a duration that is not below zero. It is a number of seconds, which may have a fraction, or written like
/// `1d2h3m4s5ms`. An empty text is a duration of zero.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "a duration is a number of seconds or like 1d2h30m, 1.5s, 100ms".to_owned();
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => duration_parts(text.strip_prefix('+').unwrap_or(text)).ok_or_else(bad)?,
    };
    // 0 below zero is zero.
    Duration::try_from_secs_f64(seconds + 0.0).map_err(|_| bad())
}

fn duration_parts(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "d" => 86400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                // With either of the two letters that look like this.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(seconds)
}

/// Parses a size with an optional unit letter. A bare number counts in `unit`. An empty text is 0.
///
/// # Errors
/// A sentence that says what a size looks like.
pub fn size(text: &str, unit: u8) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let bad =
        || format!("a size is a number with an optional unit B, K, M, G, T, P or E (default unit {})", unit as char);
    let (number, letter) = match text.as_bytes().last() {
        Some(last) if last.is_ascii_alphabetic() => (&text[..text.len() - 1], last.to_ascii_uppercase()),
        _ => (text, unit),
    };
    let power = SIZE_UNITS.iter().position(|u| *u == letter).ok_or_else(bad)?;
    let scale = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(|| "the size is beyond 16 EiB".to_owned());
    }
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0).ok_or_else(bad)?;
    let bytes = value * scale as f64;
    if bytes >= u64::MAX as f64 { Err("the size is beyond 16 EiB".to_owned()) } else { Ok(bytes as u64) }
}

/// Parses a bandwidth into whole megabits a second. Units are M (default), G, T and P, which are powers of 1000. An
/// empty text and a number below zero are 0, which is no limit.
///
/// # Errors
/// A sentence that says what a bandwidth looks like.
pub fn mbps(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let bad = || "a bandwidth is a number of Mbps with an optional unit M, G, T or P".to_owned();
    let (number, scale) = match text.as_bytes()[text.len() - 1].to_ascii_uppercase() {
        b'M' => (&text[..text.len() - 1], 1.0),
        b'G' => (&text[..text.len() - 1], 1e3),
        b'T' => (&text[..text.len() - 1], 1e6),
        b'P' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(bad)?;
    Ok((value.max(0.0) * scale) as i64)
}

/// Parses a whole number as flags take it: in decimal, or with `0x`, `0o`, `0b` or a leading 0 in another base, and
/// with `_` between digits.
///
/// # Errors
/// A sentence that says so.
pub fn integer(text: &str) -> Result<i64, String> {
    let bad = || "a whole number is wanted".to_owned();
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // A sign between base and digits is none of a number.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit() || c == '_') || digits.ends_with('_') {
        return Err(bad());
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let number = i128::from_str_radix(&digits, base).map_err(|_| bad())?;
    i64::try_from(if negative { -number } else { number }).map_err(|_| bad())
}

/// Parses a boolean as flags take it after `=`. `None` for any other text.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let secs = Duration::from_secs_f64;
        let good = [
            ("12", 12.0),
            ("0.5", 0.5),
            (".5", 0.5),
            ("1.0s", 1.0),
            ("5.s", 5.0),
            ("1e3", 1000.0),
            ("+5", 5.0),
            ("+5s", 5.0),
            ("", 0.0),
            ("0", 0.0),
            ("-0", 0.0),
            ("1d", 86400.0),
            ("0.5d", 43200.0),
            ("1d2h3m4s", 86400.0 + 7200.0 + 180.0 + 4.0),
            ("100ms", 0.1),
            ("50us", 5e-5),
            ("50\u{b5}s", 5e-5),
            ("50\u{3bc}s", 5e-5),
            ("10ns", 1e-8),
            ("1m1.5s", 61.5),
        ];
        for (text, wanted) in good {
            assert_eq!(duration(text), Ok(secs(wanted)), "{text}");
        }
        for bad in ["x", "1y", "h", "-5", "-1s", "1h2", "inf", "nan", "1..2s", "1 s", "5S", "+", "d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let good = [
            ("10", b'G', 10 << 30),
            ("4M", b'K', 4 << 20),
            ("4m", b'K', 4 << 20),
            ("1.5G", b'M', 3 << 29),
            ("1e3", b'B', 1000),
            ("131072", b'B', 131_072),
            ("7B", b'M', 7),
            ("2E", b'M', 2 << 60),
            ("", b'M', 0),
            ("0", b'G', 0),
        ];
        for (text, unit, wanted) in good {
            assert_eq!(size(text, unit), Ok(wanted), "{text}");
        }
        for bad in ["1X", "K", "one", "-1", "1KiB", "nan", "inf", "99E", "1 G", "é"] {
            assert!(size(bad, b'M').is_err(), "{bad}");
        }
    }

    #[test]
    fn bandwidths() {
        let good = [("100", 100), ("1.5G", 1500), ("2T", 2_000_000), ("7.9", 7), ("1p", 1_000_000_000), ("-3", 0)];
        for (text, wanted) in good {
            assert_eq!(mbps(text), Ok(wanted), "{text}");
        }
        for bad in ["5K", "x", "inf", "M", "1 M"] {
            assert!(mbps(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn integers() {
        let good = [
            ("0", 0),
            ("12", 12),
            ("-3", -3),
            ("+7", 7),
            ("0x10", 16),
            ("-0X1f", -31),
            ("010", 8),
            ("0o17", 15),
            ("0b101", 5),
            ("1_000", 1000),
            ("0_17", 15),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, wanted) in good {
            assert_eq!(integer(text), Ok(wanted), "{text}");
        }
        for bad in ["", "-", "x", "1.5", "09", "0x", "--1", "0x-1", "1_", "9223372036854775808", "1 "] {
            assert!(integer(bad).is_err(), "{bad}");
        }
    }
}
