//! Variables of an inherited configuration: `<name>` in a URL or path is replaced by the value of that name. A
//! value of upper case letters (digits and `_` among them, at least one letter: `8080` is itself) names an
//! environment variable. Nothing is left as it was when a name or a variable is missing: that is an error which
//! names both.

use std::collections::BTreeMap;

/// A variable that has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VariableError {
    /// The environment has no such variable.
    #[error("additionalVariables.{name}: environment variable {variable} is not set")]
    Unset {
        /// The variable's name in the configuration.
        name: String,
        /// Its name in the environment.
        variable: String,
    },
    /// Nobody says what stands there.
    #[error("{within}: <{name}> is not among additionalVariables")]
    Unknown {
        /// The key whose value it stands in.
        within: &'static str,
        /// The name between the brackets.
        name: String,
    },
}

/// The values by their names, those of the environment read.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables(BTreeMap<String, Value>);

#[derive(Clone, Debug)]
struct Value {
    text: String,
    /// The environment variable that it is from.
    variable: Option<String>,
}

impl Variables {
    pub(super) fn resolve(
        written: &BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, VariableError> {
        let value = |(name, value): (&String, &String)| {
            if !names_the_environment(value) {
                return Ok((name.clone(), Value { text: value.clone(), variable: None }));
            }
            let unset = || VariableError::Unset { name: name.clone(), variable: value.clone() };
            let text = environment(value).ok_or_else(unset)?;
            Ok((name.clone(), Value { text, variable: Some(value.clone()) }))
        };
        written.iter().map(value).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.text.as_str())
    }

    /// Every name, its value, and the environment variable that is from, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.text.as_str(), value.variable.as_deref()))
    }

    /// The text with each `<name>` replaced; what was put in is not looked at again.
    pub(super) fn fill(&self, within: &'static str, text: &str) -> Result<String, VariableError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            let Some((name, tail)) = after.split_once('>') else { break };
            let value = self.get(name);
            let value = value.ok_or_else(|| VariableError::Unknown { within, name: name.to_owned() })?;
            filled.push_str(before);
            filled.push_str(value);
            rest = tail;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// Whether a value names an environment variable.
fn names_the_environment(value: &str) -> bool {
    value.bytes().any(|b| b.is_ascii_uppercase())
        && value.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(written: &[(&str, &str)]) -> Result<Variables, VariableError> {
        let written = written.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment = |name: &str| (name == "SUBSCRIPTION_1").then(|| "from-the-environment".to_owned());
        Variables::resolve(&written, environment)
    }

    #[test]
    fn only_what_is_all_upper_case_names_the_environment() {
        for (value, is) in [
            ("SUBSCRIPTION_1", true),
            ("A", true),
            ("A1_", true),
            ("8080", false),
            ("2024", false),
            ("_", false),
            ("", false),
            ("Sample", false),
            ("US-EAST", false),
            ("Ä", false),
        ] {
            assert_eq!(names_the_environment(value), is, "{value}");
        }
    }

    #[test]
    fn names_are_replaced_by_their_values_once() {
        let variables =
            resolved(&[("id", "SUBSCRIPTION_1"), ("port", "8080"), ("year", "2024"), ("loop", "<id>")]).expect("good");
        for (text, filled) in [
            ("http://h:<port>/<year>/<id>?a=<port>", "http://h:8080/2024/from-the-environment?a=8080"),
            ("/plain", "/plain"),
            ("<loop>", "<id>"),
            ("/a<b", "/a<b"),
        ] {
            assert_eq!(variables.fill("api.path", text).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_named() {
        let error = resolved(&[("id", "NOT_SET")]).expect_err("unset").to_string();
        assert_eq!(error, "additionalVariables.id: environment variable NOT_SET is not set");
        let error = resolved(&[]).expect("none").fill("api.path", "/<who>/x").expect_err("unknown").to_string();
        assert_eq!(error, "api.path: <who> is not among additionalVariables");
    }
}
