//! Limits on a policy's text, checked before Cedar parses it.
//!
//! Cedar's parser and everything after it recurse with the depth of an expression, and a text of a
//! few kilobytes can nest deeply enough to end the process. So depth is bounded while it is text.

/// Deepest nesting of brackets.
///
/// Cedar's parser overflows a stack of 2 MiB, unoptimized, between 150 and 190.
const NESTING_MAX: usize = 48;

/// Most operators in one policy; a chain of them is as deep as it is long.
///
/// The same stack carries 300 and overflows before 1,000.
const OPERATORS_MAX: u32 = 200;

/// Most steps of one expression and of those around it: attributes, indices and calls, each of which
/// has all before it below it. Ours have five.
const STEPS_MAX: u32 = 48;

/// What is wrong with a text, with its byte offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TooComplex {
    pub(super) offset: usize,
    pub(super) message: String,
}

/// Counts of the policy that is being read.
#[derive(Default)]
struct Counts {
    operators: u32,
    /// Steps of the expression that is being read.
    steps: u32,
    /// The same of each expression around it, from the outermost on.
    around: Vec<u32>,
    /// Whether the last token ends an operand, so that a bracket behind it is an index or a call.
    after_operand: bool,
}

/// Finds the first place where a text of policies nests too deeply.
pub(super) fn check(text: &str) -> Result<(), TooComplex> {
    let mut counts = Counts::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = token(rest, first);
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let offset = text.len().saturating_sub(rest.len());
        counts
            .add(token)
            .map_err(|message| TooComplex { offset, message })?;
        rest = after;
    }
    Ok(())
}

/// Bytes of the token with which a text begins.
fn token(rest: &str, first: char) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    match first {
        '"' => {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |(at, _)| at.saturating_add(1))
        }
        '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        '&' | '|' if rest.starts_with("&&") || rest.starts_with("||") => 2,
        c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        c => c.len_utf8(),
    }
}

impl Counts {
    fn add(&mut self, token: &str) -> Result<(), String> {
        if token.starts_with(char::is_whitespace) || token.starts_with("//") {
            return Ok(());
        }
        match token {
            "(" | "[" | "{" => self.open(),
            ")" | "]" | "}" => self.steps = self.around.pop().unwrap_or_default(),
            "&&" | "||" | "+" | "-" | "*" | "!" | "if" => {
                self.operators = self.operators.saturating_add(1);
                self.steps = 0;
            }
            "." => self.steps = self.steps.saturating_add(1),
            ";" => *self = Self::default(),
            "," | "then" | "else" | "in" | "is" | "like" | "has" | "=" | "<" | ">" => {
                self.steps = 0;
            }
            _ => {}
        }
        self.after_operand = ends_operand(token);
        let steps = self
            .around
            .iter()
            .fold(self.steps, |all, steps| all.saturating_add(*steps));
        let over = |what: &str, max: u32| Err(format!("more than {max} {what}: split the policy"));
        if self.around.len() > NESTING_MAX {
            over(
                "brackets within each other",
                u32::try_from(NESTING_MAX).unwrap_or(u32::MAX),
            )
        } else if self.operators > OPERATORS_MAX {
            over("operators in one policy", OPERATORS_MAX)
        } else if steps > STEPS_MAX {
            over("attributes, indices and calls in one expression", STEPS_MAX)
        } else {
            Ok(())
        }
    }

    fn open(&mut self) {
        let steps = if self.after_operand {
            self.steps.saturating_add(1)
        } else {
            self.steps
        };
        self.around.push(steps);
        self.steps = 0;
    }
}

/// Whether something may be indexed or called behind this token.
fn ends_operand(token: &str) -> bool {
    match token {
        ")" | "]" | "}" => true,
        "in" | "is" | "like" | "has" | "if" | "then" | "else" | "when" | "unless" => false,
        _ => token.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_within_the_limits() {
        let users: Vec<String> = (0..5_000).map(|n| format!("User::\"u{n}\"")).collect();
        let conditions = vec!["context.device.posture.disk_encrypted.value"; 40].join(" && ");
        let odd = r#"// ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((
            @id("((((((((((((((((((((((((((((((((((((((((((((\"((((((((((((((((((((((((((((")"#;
        for text in [
            format!("when {{ [{}].contains(principal) }};", users.join(", ")),
            format!("when {{ {conditions} }};").repeat(100),
            odd.to_owned(),
            "\"unclosed \\\"".to_owned(),
            String::new(),
        ] {
            assert_eq!(check(&text), Ok(()));
        }
    }

    #[test]
    fn what_nests_too_deeply_is_found_where_it_begins_to() {
        for (text, offset) in [
            ("(".repeat(3_000), 48),
            ("[".repeat(49), 48),
            ("if a then b else ".repeat(300), 200 * 17),
            ("a || ".repeat(3_000), 200 * 5 + 2),
            ("a".to_owned() + &".b".repeat(3_000), 97),
            ("a".to_owned() + &"[\"b\"]".repeat(3_000), 1 + 48 * 5),
            (
                "[1]".to_owned() + &".contains(1)".repeat(3_000),
                3 + 24 * 12,
            ),
            ("a.b.c.d[".repeat(40), 12 * 8 + 1),
        ] {
            assert_eq!(check(&text).map_err(|found| found.offset), Err(offset));
        }
    }
}
