//! Values that a configuration holds as text: durations and names.

use std::time::Duration;

/// Parses a duration with its unit: `50ms`, `30s`, `5m`, `1h`.
///
/// # Errors
/// What is wrong with the text, in words for its writer.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a duration"))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "" => return Err(format!("`{text}` has no unit")),
        _ => return Err(format!("`{unit}` is not a unit of time")),
    };
    // A year: longer ones are typing errors, and would overflow when added to an instant.
    const MILLIS_MAX: u64 = 365 * 24 * 3_600_000;
    match millis {
        Some(0) => Err(format!("`{text}` is no time at all")),
        Some(millis) if millis <= MILLIS_MAX => Ok(Duration::from_millis(millis)),
        Some(_) | None => Err(format!("`{text}` is longer than a year")),
    }
}

/// What a duration looks like, for help texts.
pub(super) const DURATION_HELP: &str = "write a whole number with its unit: 50ms, 30s, 5m or 1h";

/// The longest DNS subdomain that Kubernetes takes for a name (RFC 1123).
const SUBDOMAIN_LENGTH_MAX: usize = 253;

/// The longest DNS label.
pub(super) const LABEL_LENGTH_MAX: usize = 63;

/// Whether a text is a DNS subdomain of RFC 1123: labels with dots between them.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= SUBDOMAIN_LENGTH_MAX && name.split('.').all(is_label)
}

/// Whether a text is a host's DNS name, in upper or lower case, with or without a dot at its end. One whose last label is a number is an
/// address that was written wrongly.
pub(super) fn is_host(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    is_subdomain(&name) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is a DNS label of RFC 1123, in lower case.
pub(crate) fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=LABEL_LENGTH_MAX).contains(&label.len())
        && label.chars().all(|c| inner(c) || c == '-')
        && label.starts_with(inner)
        && label.ends_with(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_whose_end_is_no_number() {
        for good in ["master-1", "Master-1.Example.COM", "a.b.", "1.example", "0x7f.example"] {
            assert!(is_host(good), "{good}");
        }
        for bad in
            ["", ".", "10.0.0.1633", "10.0.0", "a..b", "-a", "a_b", "a:6443", "fd00::g", "ä.example", "a b"]
        {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in ["", "5", "0s", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "9999999h"] {
            assert!(duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        for name in ["a", "master-1", "10.0.0.1", "ip-10-0-0-1.eu-west-1.compute.internal"] {
            assert!(is_subdomain(name), "{name:?} was refused");
        }
        let long = ["a"; 128].join(".");
        for name in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a b", &"a".repeat(64), &long] {
            assert!(!is_subdomain(name), "{name:?} was taken");
        }
    }
}
