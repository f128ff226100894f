//! When an image was created, as its config says, and the order of tags by it
//! (`created_at_sort`).

use crate::error::{Error, Result};

/// A point in time: seconds since 0001-01-01T00:00:00Z and nanoseconds.
///
/// The default is that date: it is what tools write that leave the time out, so an image
/// without `created` and one with this date are equals. Nothing is earlier.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Created {
    seconds: u64,
    nanoseconds: u32,
}

impl Created {
    /// RFC 3339 §5.6: `2024-02-29T12:00:00.5+01:00`. Fractions finer than a nanosecond are cut,
    /// and second 60 is the first of the next minute. Other texts are an error that quotes them.
    pub(crate) fn parse(text: &str) -> Result<Created> {
        read(text).ok_or_else(|| {
            let shown: String = text.escape_debug().take(SHOWN_LIMIT).collect();
            Error::registry(format!(
                "created `{shown}`: not a date and time of RFC 3339"
            ))
        })
    }
}

/// Oldest first. What has no time comes first of all; equals stay in the order they came in.
pub(crate) fn oldest_first<T>(mut tags: Vec<(T, Option<Created>)>) -> Vec<T> {
    tags.sort_by_key(|(_, created)| created.unwrap_or_default());
    tags.into_iter().map(|(tag, _)| tag).collect()
}

/// Characters of a text from an image that an error shows; a date has at most 40.
const SHOWN_LIMIT: usize = 60;

fn read(text: &str) -> Option<Created> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    one_of(&mut rest, "-")?;
    let month = digits(&mut rest, 2).filter(|month| (1..=12).contains(month))?;
    one_of(&mut rest, "-")?;
    let day = digits(&mut rest, 2).filter(|day| (1..=days_in(year, month)).contains(day))?;
    one_of(&mut rest, "Tt ")?;
    let hour = digits(&mut rest, 2).filter(|hour| *hour < 24)?;
    one_of(&mut rest, ":")?;
    let minute = digits(&mut rest, 2).filter(|minute| *minute < 60)?;
    one_of(&mut rest, ":")?;
    let second = digits(&mut rest, 2).filter(|second| *second <= 60)?;
    let nanoseconds = fraction(&mut rest)?;
    let east = match one_of(&mut rest, "Zz+-")? {
        sign @ ('+' | '-') => {
            let hours = digits(&mut rest, 2).filter(|hours| *hours < 24)?;
            one_of(&mut rest, ":")?;
            let minutes = digits(&mut rest, 2).filter(|minutes| *minutes < 60)?;
            let east = (hours * 60 + minutes) * 60;
            if sign == '+' { east } else { -east }
        }
        _ => 0,
    };
    if !rest.is_empty() {
        return None;
    }
    let seconds = ((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second;
    // Before the year 1 (an offset can lead there) is no earlier than without a time.
    Some(match u64::try_from(seconds - east) {
        Ok(seconds) => Created {
            seconds,
            nanoseconds,
        },
        Err(_) => Created::default(),
    })
}

fn digits(rest: &mut &str, count: usize) -> Option<i64> {
    let (number, after) = rest.split_at_checked(count)?;
    *rest = after;
    number
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| number.parse().ok())?
}

fn one_of(rest: &mut &str, expected: &str) -> Option<char> {
    let found = rest
        .chars()
        .next()
        .filter(|found| expected.contains(*found))?;
    *rest = rest.get(found.len_utf8()..)?;
    Some(found)
}

/// Nanoseconds of `.123`; none of no fraction is 0, a point without digits is an error.
fn fraction(rest: &mut &str) -> Option<u32> {
    let Some(after) = rest.strip_prefix('.') else {
        return Some(0);
    };
    let count = after.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = after.split_at_checked(count).filter(|_| count > 0)?;
    *rest = after;
    let digits = number.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some(digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 0001-01-01 to the first of a month, in the Gregorian calendar throughout.
fn days_before(year: i64, month: i64) -> i64 {
    let past = year - 1;
    let leaps = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    past * 365 + leaps + (1..month).map(|month| days_in(year, month)).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semver::testing::Random;

    fn created(text: &str) -> Created {
        Created::parse(text).expect(text)
    }

    #[test]
    fn times_are_compared_across_offsets_and_fractions() {
        let rising = [
            "0001-01-01T00:00:00Z",
            "0001-01-01T00:00:00.000000001Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00Z",
            "2023-12-31T23:59:60.5Z",
            "2024-01-01T00:00:01Z",
            "2024-02-28T23:59:59.999999999Z",
            "2024-02-29T00:00:00Z",
            "2024-03-01T00:30:00+01:00",
            "2024-02-29T23:30:01Z",
            "2024-02-29T19:30:00-05:30",
            "2024-03-01T01:00:00.5Z",
            "2024-03-01T01:00:00.51Z",
            "9999-12-31T23:59:59Z",
        ];
        for (i, early) in rising.iter().enumerate() {
            for (j, late) in rising.iter().enumerate() {
                assert_eq!(
                    created(early).cmp(&created(late)),
                    i.cmp(&j),
                    "{early} {late}"
                );
            }
        }
        for (one, other) in [
            ("2024-01-01T00:00:00Z", "2023-12-31t18:30:00.000-05:30"),
            ("2016-12-31T23:59:60Z", "2017-01-01 00:00:00z"),
            (
                "2024-01-01T00:00:00.1234567891Z",
                "2024-01-01T00:00:00.123456789+00:00",
            ),
            ("0001-01-01T00:00:00+02:00", "0000-06-01T00:00:00Z"),
        ] {
            assert_eq!(created(one), created(other), "{one} {other}");
        }
    }

    #[test]
    fn the_calendar_is_gregorian() {
        // 1970-01-01 is day 719162 after 0001-01-01; 2024-02-29 is day 19782 after 1970-01-01.
        assert_eq!(created("1970-01-01T00:00:00Z").seconds, 719_162 * 86_400);
        assert_eq!(
            created("2024-02-29T00:00:00Z").seconds,
            (719_162 + 19_782) * 86_400
        );
    }

    #[test]
    fn other_texts_are_errors_that_quote_them() {
        for text in [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-1-01T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-01-32T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00,5Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Z ",
            "+024-01-01T00:00:00Z",
            "12024-01-01T00:00:00Z",
            "2024-01-01T00:00:00é",
            "２０24-01-01T00:00:00Z",
        ] {
            assert!(Created::parse(text).is_err(), "{text}");
        }
        let error = Created::parse("yester\nday").expect_err("no date");
        assert_eq!(
            error.to_string(),
            "created `yester\\nday`: not a date and time of RFC 3339"
        );
        let long = Created::parse(&"9".repeat(1 << 20)).expect_err("no date");
        assert!(long.to_string().len() < 200);
    }

    #[test]
    fn without_a_time_comes_first_and_equals_keep_their_order() {
        let zero = Some(created("0001-01-01T00:00:00Z"));
        let late = Some(created("2024-01-01T00:00:00Z"));
        let early = Some(created("2020-01-01T00:00:00Z"));
        let tags = vec![
            ("a", late),
            ("b", None),
            ("c", early),
            ("d", late),
            ("e", zero),
            ("f", None),
        ];
        assert_eq!(oldest_first(tags), ["b", "e", "f", "c", "a", "d"]);
    }

    #[test]
    fn any_text_can_be_read() {
        let mut random = Random::new(5);
        for _ in 0..100_000 {
            let mut text = b"2024-02-29T12:34:56.789+01:00".to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(text.len());
                text[at] = random.next() as u8;
            }
            let _ = Created::parse(&String::from_utf8_lossy(&text));
            let _ = Created::parse(&String::from_utf8_lossy(&random.bytes(40)));
        }
    }
}
