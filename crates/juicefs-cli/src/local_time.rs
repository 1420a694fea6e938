//! Civil time in the machine's time zone, for logs and for the session record.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment as a wall clock and calendar show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CivilTime {
    /// Year, month 1..=12, day 1..=31.
    pub(crate) date: (i32, i32, i32),
    /// Hour, minute, second.
    pub(crate) time: (i32, i32, i32),
    /// Nanoseconds past the second.
    pub(crate) nanos: u32,
    /// Seconds east of UTC.
    pub(crate) offset_secs: i64,
}

impl CivilTime {
    /// The present time.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "shown to people only; nothing is decided by it")]
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(i64::try_from(since.as_secs()).unwrap_or(0), since.subsec_nanos())
    }

    /// The local time `secs` seconds after the epoch.
    #[must_use]
    pub(crate) fn at(secs: i64, nanos: u32) -> Self {
        // SAFETY: all fields of `tm` are integers or a pointer that may be null, for which zero bytes are valid.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values of the right type; localtime_r is thread-safe. On failure it
        // leaves `tm` zeroed, which is still printable.
        unsafe { libc::localtime_r(&raw const secs, &raw mut tm) };
        Self {
            date: (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday),
            time: (tm.tm_hour, tm.tm_min, tm.tm_sec),
            nanos,
            offset_secs: tm.tm_gmtoff,
        }
    }

    /// `YYYY/MM/DD HH:MM:SS.micro`, as log lines begin.
    #[must_use]
    pub(crate) fn log_stamp(&self) -> String {
        let ((y, mo, d), (h, mi, s)) = (self.date, self.time);
        format!("{y:04}/{mo:02}/{d:02} {h:02}:{mi:02}:{s:02}.{:06}", self.nanos / 1000)
    }

    /// RFC 3339 with nanoseconds and zone.
    #[must_use]
    pub(crate) fn rfc3339(&self) -> String {
        let ((y, mo, d), (h, mi, s)) = (self.date, self.time);
        let zone = match self.offset_secs / 60 {
            0 => "Z".to_owned(),
            minutes => {
                let sign = if minutes < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        };
        let fraction = match self.nanos {
            0 => String::new(),
            nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
        };
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}{fraction}{zone}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let mut time = CivilTime { date: (2026, 8, 1), time: (3, 4, 5), nanos: 120_000_000, offset_secs: 0 };
        assert_eq!(time.log_stamp(), "2026/08/01 03:04:05.120000");
        assert_eq!(time.rfc3339(), "2026-08-01T03:04:05.12Z");
        time.offset_secs = -(5 * 3600 + 1800);
        time.nanos = 0;
        assert_eq!(time.rfc3339(), "2026-08-01T03:04:05-05:30");
    }

    #[test]
    fn the_system_is_asked() {
        let time = CivilTime::at(86_400 * 365, 7);
        assert!(time.date.0 == 1971 || time.date.0 == 1970);
        assert_eq!(time.nanos, 7);
    }
}
