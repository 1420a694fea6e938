//! The grammar of values of flags. It adds octal modes, squash ids, tags and directory lists to what
//! [`juicefs_core::values`] has.
//!
//! All functions are pure. They take a text, and give a value or one sentence that says what is wrong.

use std::{path::PathBuf, time::Duration};

pub(crate) use juicefs_core::values::{boolean, duration, integer, mbps, size};

/// [`size`] in bytes by default.
pub(crate) fn size_b(text: &str) -> Result<u64, String> {
    size(text, b'B')
}

/// [`size`] in KiB by default.
pub(crate) fn size_k(text: &str) -> Result<u64, String> {
    size(text, b'K')
}

/// [`size`] in MiB by default.
pub(crate) fn size_m(text: &str) -> Result<u64, String> {
    size(text, b'M')
}

/// Parses a number of something. A number outside of the bounds becomes the nearest inside, so that a script runs which
/// asks for more threads than there can be.
///
/// # Errors
/// When the text is no number.
pub(crate) fn bounded<const LEAST: i64, const MOST: i64, N: TryFrom<i64>>(text: &str) -> Result<N, String> {
    let number = number(text)?.clamp(LEAST.into(), MOST.into());
    let bounded = i64::try_from(number).ok().and_then(|number| N::try_from(number).ok());
    bounded.ok_or_else(|| "this number is out of bounds".to_owned())
}

/// Parses how many steps of a removal are done side by side: the usual 50 for less than 1, and at most 255.
///
/// # Errors
/// When the text is no number.
pub(crate) fn removers(text: &str) -> Result<u8, String> {
    match number(text)? {
        ..=0 => Ok(50),
        more => Ok(u8::try_from(more).unwrap_or(u8::MAX)),
    }
}

fn number(text: &str) -> Result<i128, String> {
    text.trim().parse().map_err(|_| "a whole number is wanted".to_owned())
}

/// [`size`] in GiB by default.
pub(crate) fn size_g(text: &str) -> Result<u64, String> {
    size(text, b'G')
}

/// A bandwidth for people, `100.0 Mbps`.
pub(crate) fn mbps_text(mbps: i64) -> String {
    let mut value = mbps as f64;
    for unit in ["Mbps", "Gbps", "Tbps"] {
        if value < 1000.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} Pbps")
}

/// Bytes for people, `1.0 GiB`: one decimal below ten units, none above, as users know it from JuiceFS.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    let value = (bytes as f64 / (1u64 << (10 * power)) as f64 * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[power]) } else { format!("{value:.0} {}", UNITS[power]) }
}

/// A duration, or `None` for never, which is written as a negative one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interval(pub(crate) Option<Duration>);

/// Parses a duration of which a negative one means never.
///
/// # Errors
/// A sentence about the text.
pub(crate) fn interval(text: &str) -> Result<Interval, String> {
    match text.strip_prefix('-') {
        Some(below_zero) => duration(below_zero).map(|length| Interval(length.is_zero().then_some(length))),
        None => duration(text).map(|length| Interval(Some(length))),
    }
}

/// Parses a count: a whole number, of which one below zero is 0.
///
/// # Errors
/// A sentence about the text.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    integer(text).map(|number| u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// Parses a [`count`] that may be large.
///
/// # Errors
/// A sentence about the text.
pub(crate) fn large_count(text: &str) -> Result<u64, String> {
    integer(text).map(|number| u64::try_from(number).unwrap_or(0))
}

/// Parses an octal mode.
///
/// # Errors
/// A sentence that says so.
pub(crate) fn octal(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "an octal mode is like 022 or 0644".to_owned())
}

/// Parses `uid:gid` of a squash flag; `None` stands for a part that is missing or 0, which means nobody.
///
/// # Errors
/// A sentence that says what it looks like.
pub(crate) fn squash(text: &str) -> Result<(Option<u32>, Option<u32>), String> {
    let part = |text: &str| match text {
        "" => Ok(None),
        id => id.parse::<u32>().map(|id| (id != 0).then_some(id)).map_err(|_| "ids are given as uid:gid".to_owned()),
    };
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    Ok((part(uid)?, part(gid)?))
}

/// Parses a tag `key=value` with one `=` and both parts present.
///
/// # Errors
/// A sentence that says so.
pub(crate) fn tag(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        _ if text.is_empty() => Ok(String::new()),
        Some((key, value)) if !key.is_empty() && !value.is_empty() && !value.contains('=') => Ok(text.to_owned()),
        _ => Err("a tag is key=value".to_owned()),
    }
}

/// Splits a directory list at `:`, or at `,` when it has no `:`.
pub(crate) fn directories(text: &str) -> Vec<PathBuf> {
    let separator = if text.contains(':') { ':' } else { ',' };
    text.split(separator).filter(|part| !part.is_empty()).map(PathBuf::from).collect()
}

/// A count for people, with commas between thousands.
pub(crate) fn with_commas(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bandwidths_for_people() {
        assert_eq!(mbps_text(0), "0.0 Mbps");
        assert_eq!(mbps_text(100), "100.0 Mbps");
        assert_eq!(mbps_text(1500), "1.5 Gbps");
    }

    #[test]
    fn bytes_for_people() {
        let cases =
            [(0, "0 B"), (9, "9 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (10 << 30, "10 GiB")];
        for (bytes, text) in cases {
            assert_eq!(bytes_text(bytes), text);
        }
        assert_eq!(bytes_text(1 << 20), "1.0 MiB");
        assert_eq!(bytes_text(128 << 10), "128 KiB");
    }

    #[test]
    fn counts_are_brought_within_their_bounds() {
        let threads = bounded::<1, 255, u8>;
        assert_eq!([threads("0"), threads("-7"), threads("9"), threads("1000")], [Ok(1), Ok(1), Ok(9), Ok(255)]);
        assert_eq!([removers("0"), removers("-1"), removers("3"), removers("99999")], [Ok(50), Ok(50), Ok(3), Ok(255)]);
        assert_eq!(bounded::<0, 0xFFFF_FFFF, u32>("99999999999"), Ok(u32::MAX));
        for bad in ["", "x", "1.5", "5x"] {
            assert!(threads(bad).is_err() && removers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn intervals_can_be_switched_off() {
        for (text, wanted) in [("1h", Some(3600)), ("0", Some(0)), ("-0", Some(0)), ("-1", None), ("-1s", None)] {
            assert_eq!(interval(text), Ok(Interval(wanted.map(Duration::from_secs))), "{text}");
        }
        assert!(interval("-x").is_err() && interval("--1").is_err());
    }

    #[test]
    fn counts_do_not_go_below_zero() {
        assert_eq!((count("7"), count("-7"), count("99999999999")), (Ok(7), Ok(0), Ok(u32::MAX)));
        assert_eq!((large_count("0x10"), large_count("-1")), (Ok(16), Ok(0)));
        assert!(count("x").is_err() && large_count("").is_err());
    }

    #[test]
    fn small_grammars() {
        assert_eq!(octal("022"), Ok(0o22));
        assert!(octal("8").is_err() && octal("77777").is_err() && octal("").is_err());
        assert_eq!(squash("1000:100"), Ok((Some(1000), Some(100))));
        assert_eq!(squash("1000:"), Ok((Some(1000), None)));
        assert_eq!(squash(":1000"), Ok((None, Some(1000))));
        assert_eq!(squash("0:0"), Ok((None, None)));
        assert!(squash("root:root").is_err());
        assert!(tag("a=b").is_ok() && tag("").is_ok());
        assert!(tag("a").is_err() && tag("=b").is_err() && tag("a=").is_err() && tag("a=b=c").is_err());
        assert_eq!(directories("/a:/b"), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(directories("/a,/b"), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(directories("/a,x:/b"), [PathBuf::from("/a,x"), PathBuf::from("/b")]);
        assert_eq!((boolean("T"), boolean("0"), boolean("yes")), (Some(true), Some(false), None));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_grammar_panic(text in "\\PC{0,12}") {
            let _ = (size_k(&text), mbps(&text), duration(&text), octal(&text), squash(&text), tag(&text));
            let _ = directories(&text);
        }

        #[test]
        fn whole_sizes_are_exact(n in 0u64..1 << 54) {
            prop_assert_eq!(size_b(&n.to_string()), Ok(n));
            prop_assert_eq!(size_b(&format!("{n}K")), Ok(n << 10));
        }
    }
}
