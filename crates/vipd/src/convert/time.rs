//! Times in the words of other programs, and in vipd's.

/// A year, beyond which vipd takes no time.
const MILLIS_MAX: u64 = 365 * 24 * 3_600_000;

/// Milliseconds of a whole number with haproxy's or nginx's units; `bare` is what a number without one counts, in microseconds. `None`
/// where it isn't one, or is longer than a year.
pub(super) fn millis(text: &str, bare: u64) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        "" => bare,
        _ => return None,
    };
    let millis = number.checked_mul(micros)?.div_ceil(1_000);
    (millis <= MILLIS_MAX).then_some(millis)
}

/// Milliseconds of keepalived's seconds, with or without a fraction.
pub(super) fn of_seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let millis = whole.checked_mul(1_000)?.checked_add(thousandths.parse().ok()?)?;
    (millis <= MILLIS_MAX).then_some(millis)
}

/// In vipd's words: the largest unit that leaves nothing over.
pub(super) fn text(millis: u64) -> String {
    match millis {
        0 => "0ms".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_units_of_their_programs() {
        for (given, expected) in
            [("20s", 20_000), ("1500", 1_500), ("2m", 120_000), ("1us", 1), ("1d", 86_400_000), ("0", 0)]
        {
            assert_eq!(millis(given, 1_000), Some(expected), "{given}");
        }
        for given in ["", "s", "1x", "-1s", "99999999999999999999", "400d", "1.5s"] {
            assert_eq!(millis(given, 1_000), None, "{given}");
        }
        for (given, expected) in [("1", 1_000), ("0.05", 50), ("1.5", 1_500), (".5", 500)] {
            assert_eq!(of_seconds(given), Some(expected), "{given}");
        }
        for given in ["", ".", "1s", "-1", "1.x", "1.1.1"] {
            assert_eq!(of_seconds(given), None, "{given}");
        }
    }

    #[test]
    fn the_largest_unit_is_written_that_leaves_nothing() {
        for (given, expected) in [(20_000, "20s"), (1_500, "1500ms"), (7_200_000, "2h"), (60_000, "1m")] {
            assert_eq!(text(given), expected);
        }
    }
}
