//! The value grammars of flags: sizes, bandwidths, durations, octal modes, squash ids, tags and directory lists.
//!
//! Pure: text in, value or one sentence out.

use std::{path::PathBuf, time::Duration};

use super::args::QuotaAction;

const SIZE_UNITS: &[u8] = b"BKMGTPE";

/// Parses a size with an optional unit letter; a bare number counts in `unit`. An empty text is 0.
///
/// # Errors
/// A sentence that says what a size looks like.
pub(crate) fn size(text: &str, unit: u8) -> Result<u64, String> {
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

/// [`size`] in GiB by default.
pub(crate) fn size_g(text: &str) -> Result<u64, String> {
    size(text, b'G')
}

/// Parses a bandwidth into whole Mbps; units are M (default), G, T and P, powers of 1000.
///
/// # Errors
/// A sentence that says what a bandwidth looks like.
pub(crate) fn mbps(text: &str) -> Result<i64, String> {
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
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0).ok_or_else(bad)?;
    Ok((value * scale) as i64)
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

/// Parses a duration: a bare number of seconds, or `1d2h3m4s5ms` with fractions.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "a duration is a number of seconds or like 1d2h30m, 1.5s, 100ms".to_owned();
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => duration_parts(text).ok_or_else(bad)?,
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// A duration that may be switched off, by a negative one.
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
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    Some(seconds)
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

/// Parses what `quota` is to do.
///
/// # Errors
/// A sentence that says what there is.
pub(crate) fn quota_action(text: &str) -> Result<QuotaAction, String> {
    match text {
        "set" => Ok(QuotaAction::Set),
        "get" => Ok(QuotaAction::Get),
        "delete" | "del" => Ok(QuotaAction::Delete),
        "list" | "ls" => Ok(QuotaAction::List),
        "check" => Ok(QuotaAction::Check),
        _ => Err("quota takes set, get, delete, list or check".to_owned()),
    }
}

/// Thousands apart, as counts are shown.
pub(crate) fn with_commas(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A boolean as flags take it after `=`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_g("10"), Ok(10 << 30));
        assert_eq!(size_k("4M"), Ok(4 << 20));
        assert_eq!(size_k("4m"), Ok(4 << 20));
        assert_eq!(size_m("1.5G"), Ok(3 << 29));
        assert_eq!(size_b("131072"), Ok(131_072));
        assert_eq!(size_b("7B"), Ok(7));
        assert_eq!(size_m(""), Ok(0));
        assert_eq!(size_g("0"), Ok(0));
        for bad in ["1X", "K", "one", "-1", "1KiB", "nan", "inf", "99E", "1 G", "é"] {
            assert!(size_m(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bandwidths_come_and_go() {
        assert_eq!(mbps("100"), Ok(100));
        assert_eq!(mbps("1.5G"), Ok(1500));
        assert_eq!(mbps("2T"), Ok(2_000_000));
        assert!(mbps("5K").is_err() && mbps("x").is_err() && mbps("-3").is_err());
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
    fn durations() {
        let secs = Duration::from_secs_f64;
        assert_eq!(duration("12"), Ok(secs(12.0)));
        assert_eq!(duration("0.5"), Ok(secs(0.5)));
        assert_eq!(duration("1d2h3m4s"), Ok(secs(86400.0 + 7200.0 + 180.0 + 4.0)));
        assert_eq!(duration("100ms"), Ok(secs(0.1)));
        assert_eq!(duration("1.5h"), Ok(secs(5400.0)));
        for bad in ["x", "1y", "h", "-5", "-1s", "1h2", "inf", "1..2s"] {
            assert!(duration(bad).is_err(), "{bad}");
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
