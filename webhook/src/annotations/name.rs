//! The name under which an agent is shown. It ends up in the environment, where Kubernetes expands `$(…)`, and in tables on
//! terminals, so it is plain text on one line.

/// As long as a Kubernetes object's name may be.
const LENGTH_MAX: usize = 253;
/// What may stand in it beside letters and digits.
const MARKS: &str = " -_./:@+#()";

/// A display name; never an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DisplayName(String);

/// Why a text is no display name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("is empty. Write a name, or leave the annotation out")]
    Empty,
    #[error("is longer than 253 characters. Shorten it")]
    Long,
    #[error("has characters that a name may not have. Use letters, digits, spaces and - _ . / : @ + # ( ), and no space at either end")]
    Characters,
}

impl DisplayName {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.chars().count() > LENGTH_MAX {
            return Err(NameError::Long);
        }
        let sound = text.trim() == text && text.chars().all(|c| c.is_alphanumeric() || MARKS.contains(c));
        if sound { Ok(Self(text.to_owned())) } else { Err(NameError::Characters) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_text_on_one_line() {
        for (text, expect) in [
            ("trader", Ok(())),
            ("Händler (EU) #2", Ok(())),
            ("team/agent:v2@prod", Ok(())),
            ("", Err(NameError::Empty)),
            (" trader", Err(NameError::Characters)),
            ("a\nb", Err(NameError::Characters)),
            ("a\u{1b}[31m", Err(NameError::Characters)),
            ("$(SECRET)", Err(NameError::Characters)),
            ("a\u{202e}b", Err(NameError::Characters)),
        ] {
            assert_eq!(DisplayName::parse(text).map(|_| ()), expect, "{text:?}");
        }
        assert!(DisplayName::parse(&"ä".repeat(253)).is_ok());
        assert_eq!(DisplayName::parse(&"a".repeat(254)), Err(NameError::Long));
    }
}
