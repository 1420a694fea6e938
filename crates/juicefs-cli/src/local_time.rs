//! How moments are written for people and in the session record, in the time zone of this machine.

use juicefs_core::{Clock, SystemClock, civil::CivilTime};
use juicefs_vfs::local_time;

/// The present time.
#[must_use]
pub(crate) fn now() -> CivilTime {
    local_time(SystemClock.now())
}

/// `YYYY/MM/DD HH:MM:SS.micro`, as log lines begin.
#[must_use]
pub(crate) fn log_stamp(at: CivilTime) -> String {
    let ((y, mo, d), (h, mi, s)) = (at.date, at.time);
    format!("{y:04}/{mo:02}/{d:02} {h:02}:{mi:02}:{s:02}.{:06}", at.nanos / 1000)
}

/// RFC 3339 with nanoseconds and zone.
#[must_use]
pub(crate) fn rfc3339(at: CivilTime) -> String {
    let ((y, mo, d), (h, mi, s)) = (at.date, at.time);
    let zone = match at.offset_secs / 60 {
        0 => "Z".to_owned(),
        minutes => {
            let sign = if minutes < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
    };
    let fraction = match at.nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}{fraction}{zone}")
}

#[cfg(test)]
mod tests {
    use juicefs_core::Timestamp;

    use super::*;

    #[test]
    fn forms() {
        let mut time = CivilTime { date: (2026, 8, 1), time: (3, 4, 5), nanos: 120_000_000, offset_secs: 0 };
        assert_eq!(log_stamp(time), "2026/08/01 03:04:05.120000");
        assert_eq!(rfc3339(time), "2026-08-01T03:04:05.12Z");
        time.offset_secs = -(5 * 3600 + 1800);
        time.nanos = 0;
        assert_eq!(rfc3339(time), "2026-08-01T03:04:05-05:30");
    }

    #[test]
    fn the_system_is_asked() {
        let time = local_time(Timestamp { secs: 86_400 * 365, nanos: 7 });
        assert!(time.date.0 == 1971 || time.date.0 == 1970);
        assert_eq!(time.nanos, 7);
    }
}
