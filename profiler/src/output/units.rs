//! Figures for people.

/// Seconds: `1.23 s`, `45.6 ms`, `789 µs`.
pub fn duration(seconds: f64) -> String {
    let magnitude = seconds.abs();
    if magnitude >= 99.95 {
        format!("{} s", count(seconds.max(0.0).round() as u64))
    } else if magnitude >= 9.995 {
        format!("{seconds:.1} s")
    } else if magnitude >= 0.9995 {
        format!("{seconds:.2} s")
    } else if magnitude >= 0.000_999_5 {
        let milliseconds = seconds * 1e3;
        if magnitude >= 0.099_95 { format!("{milliseconds:.0} ms") } else { format!("{milliseconds:.1} ms") }
    } else if magnitude > 0.0 {
        format!("{:.0} µs", seconds * 1e6)
    } else {
        "0 s".into()
    }
}

/// A share of 0 to 1: `45.6 %`.
pub fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// A number with its thousands apart: `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 sample`, `2 samples`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three figures, in the unit that suits.
    #[test]
    fn durations() {
        let seconds = [0.0, 0.000_042, 0.001, 0.0123, 0.456, 1.0, 1.234, 12.34, 123.4, 12_345.6];
        let text = seconds.map(duration);
        assert_eq!(
            text,
            [
                "0 s", "42 µs", "1.0 ms", "12.3 ms", "456 ms", "1.00 s", "1.23 s", "12.3 s", "123 s",
                "12,346 s"
            ]
        );
        assert_eq!([0.999_9, 99.96].map(duration), ["1.00 s", "100 s"]);
    }

    /// Thousands are apart, and one thing is not many.
    #[test]
    fn counts() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(plural(1, "sample", "samples"), "1 sample");
        assert_eq!(percent(0.456), "45.6 %");
    }
}
