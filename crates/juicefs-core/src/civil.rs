//! Civil time, which is the date and the time of day of a moment, and the way from a date back to its day.

use crate::attr::Timestamp;

const DAYS_PER_ERA: i64 = 146_097;
const DAYS_TO_EPOCH: i64 = 719_468;

/// A moment as a calendar and a wall clock show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// Year, month 1..=12, day 1..=31.
    pub date: (i64, i64, i64),
    /// Hour, minute, second.
    pub time: (i64, i64, i64),
    /// Nanoseconds past the second.
    pub nanos: u32,
    /// Seconds by which the clock is east of UTC.
    pub offset_secs: i64,
}

impl CivilTime {
    /// The moment `at` on a clock that is `offset_secs` east of UTC.
    #[must_use]
    pub fn at(at: Timestamp, offset_secs: i64) -> Self {
        let secs = at.secs.saturating_add(offset_secs);
        let second_of_day = secs.rem_euclid(86_400);
        Self {
            date: date_of(secs.div_euclid(86_400)),
            time: (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60),
            nanos: at.nanos,
            offset_secs,
        }
    }
}

/// Year, month and day of a day that is counted from the epoch.
#[must_use]
pub fn date_of(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that leap days come last.
    let shifted = days + DAYS_TO_EPOCH;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day, counted from the epoch, of a date. The inverse of [`date_of`]; nonsense for months and days that do not exist.
#[must_use]
pub fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    era * DAYS_PER_ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - DAYS_TO_EPOCH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_is_shown_by_the_clock_of_its_zone() {
        let at = Timestamp { secs: 951_826_501, nanos: 7 };
        let utc = CivilTime { date: (2000, 2, 29), time: (12, 15, 1), nanos: 7, offset_secs: 0 };
        assert_eq!(CivilTime::at(at, 0), utc);
        let west = CivilTime::at(at, -13 * 3600);
        assert_eq!((west.date, west.time), ((2000, 2, 28), (23, 15, 1)));
        assert_eq!(CivilTime::at(Timestamp::from_secs(-1), 0).date, (1969, 12, 31));
    }

    proptest! {
        #[test]
        fn dates_lead_back_to_their_day(days in -1_000_000_i64..4_000_000) {
            let (year, month, day) = date_of(days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            prop_assert_eq!(day_of(year, month, day), days);
        }
    }
}
