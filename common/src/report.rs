//! An error with its causes, on one line: `poll of costs.csv failed: line 3: not a number`.

use std::error::Error;

/// The error's text followed by each cause's, joined by `: `. A cause whose text the line
/// already ends with is not repeated.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[derive(Debug, thiserror::Error)]
    #[error("poll of {name} failed")]
    struct Outer {
        name: &'static str,
        #[source]
        cause: std::io::Error,
    }

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = Outer { name: "costs.csv", cause: std::io::Error::other("not\nfound") };
        assert_eq!(one_line(&error), "poll of costs.csv failed: not found");
    }
}
