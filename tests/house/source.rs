//! Rust source as far as the rules need it: words with their lines, without
//! comments, texts and tests, and the paths that they make.

/// A word or mark of the source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// The words of the source that are neither comment nor text.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = end_of(&chars, at);
        let text: String = chars[at..end].iter().collect();
        let silent = text.starts_with(char::is_whitespace)
            || text.starts_with("//")
            || text.starts_with("/*")
            || text.starts_with('\'')
            || text.contains('"');
        let lines = text.matches('\n').count();
        if !silent {
            tokens.push(Token { line, text });
        }
        line += lines;
        at = end;
    }
    tokens
}

/// Where the piece that begins here ends.
fn end_of(chars: &[char], at: usize) -> usize {
    let is = |offset: usize, wanted: char| chars.get(at + offset) == Some(&wanted);
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    let run = |from: usize, keep: &dyn Fn(&char) -> bool| {
        chars[from..]
            .iter()
            .position(|c| !keep(c))
            .map_or(chars.len(), |length| from + length)
    };
    match chars[at] {
        c if c.is_whitespace() => run(at, &|c| c.is_whitespace()),
        '/' if is(1, '/') => run(at, &|c| *c != '\n'),
        '/' if is(1, '*') => end_of_comment(chars, at),
        '"' => end_of_text(chars, at),
        '\'' => end_of_quote(chars, at),
        c if word(&c) => {
            let end = run(at, &word);
            let prefix: String = chars[at..end].iter().collect();
            match (prefix.as_str(), chars.get(end)) {
                ("r" | "br" | "cr", Some('"' | '#')) => end_of_raw_text(chars, end),
                ("b" | "c", Some('"')) => end_of_text(chars, end),
                ("b", Some('\'')) => end_of_quote(chars, end),
                _ => end,
            }
        }
        ':' if is(1, ':') => at + 2,
        _ => at + 1,
    }
}

fn end_of_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = at;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_text(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// `at` is behind the `r`. A raw name, as in `r#match`, is no text.
fn end_of_raw_text(chars: &[char], at: usize) -> usize {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    let mut at = at + hashes;
    if chars.get(at) != Some(&'"') {
        return at;
    }
    at += 1;
    while at < chars.len() {
        at += 1;
        let closing = chars[at..]
            .iter()
            .take(hashes)
            .filter(|c| **c == '#')
            .count();
        if chars[at - 1] == '"' && closing == hashes {
            break;
        }
    }
    (at + hashes).min(chars.len())
}

/// A character, or the quote of a lifetime.
fn end_of_quote(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            // What is escaped may be a quote itself.
            let rest = chars.iter().skip(at + 3);
            rest.take_while(|c| **c != '\'').count() + at + 4
        }
        (_, Some('\'')) => at + 3,
        _ => at + 1,
    }
    .min(chars.len())
}

/// The words without items that are compiled for tests only.
pub(crate) fn production(tokens: &[Token]) -> Vec<Token> {
    let test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens[at..]
            .iter()
            .map(|token| token.text.as_str())
            .take(test.len());
        if begins.eq(test) {
            at = end_of_item(tokens, at + test.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Where the item that begins here ends: at its `;`, or at its last brace.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && ["}", ";"].contains(&token.text.as_str()) {
            return at + offset + 1;
        }
    }
    tokens.len()
}

/// A path as it is written, from its first name on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Path {
    pub(crate) line: usize,
    pub(crate) names: Vec<String>,
}

/// Every path of the words, with the groups of `use` spread out.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map(|before| tokens[before].text.as_str());
        if is_name(&tokens[at]) && !matches!(before, Some("::" | ".")) {
            let single = before == Some("use");
            let from = found.len();
            at = tree(tokens, at, Vec::new(), &mut found);
            // A name alone is a path only where it is imported.
            if !single {
                let rest = found.split_off(from);
                found.extend(rest.into_iter().filter(|path| path.names.len() > 1));
            }
        } else {
            at += 1;
        }
    }
    found
}

fn is_name(token: &Token) -> bool {
    token
        .text
        .starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads a path or a tree of them, and says where it ends.
fn tree(tokens: &[Token], at: usize, prefix: Vec<String>, found: &mut Vec<Path>) -> usize {
    let (mut at, mut names) = (at, prefix);
    let line = tokens.get(at).map_or(0, |token| token.line);
    let text = |at: usize| tokens.get(at).map(|token| token.text.as_str());
    while let Some(token) = tokens.get(at).filter(|token| is_name(token)) {
        names.push(token.text.clone());
        at += 1;
        if text(at) != Some("::") {
            break;
        }
        at += 1;
        if text(at) == Some("*") {
            at += 1;
            break;
        }
        if text(at) == Some("{") {
            at += 1;
            while text(at).is_some_and(|text| text != "}") {
                at = match text(at) {
                    Some(",") => at + 1,
                    Some("as") => at + 2,
                    _ => tree(tokens, at, names.clone(), found).max(at + 1),
                };
            }
            return at + 1;
        }
    }
    found.push(Path { line, names });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    fn joined(source: &str) -> Vec<String> {
        paths(&tokens(source))
            .into_iter()
            .map(|path| path.names.join("::"))
            .collect()
    }

    #[test]
    fn comments_and_texts_are_no_words() {
        let source = r####"a /* b /* c */ d */ "e \" f" r#"g " h"# b"i" 'j' '\'' '"' k // l"####;
        assert_eq!(words(source), ["a", "k"]);
        assert_eq!(
            words("x<'a>(&'a str)"),
            ["x", "<", "a", ">", "(", "&", "a", "str", ")"]
        );
        assert_eq!(words("r#match"), ["r#", "match"]);
    }

    #[test]
    fn words_know_their_line() {
        let lines: Vec<_> = tokens("a\n\"x\ny\" b\n/*\n*/ c")
            .into_iter()
            .map(|token| token.line)
            .collect();
        assert_eq!(lines, [1, 3, 5]);
    }

    #[test]
    fn tests_are_left_out_to_their_last_brace() {
        let source = "a; #[cfg(test)] mod tests { fn x() { b } } c; #[cfg(test)] mod d; e #[cfg(test)] use f::{g, h}; i";
        let kept: Vec<_> = production(&tokens(source))
            .into_iter()
            .map(|token| token.text)
            .collect();
        assert_eq!(kept, ["a", ";", "c", ";", "e", ";", "i"]);
    }

    #[test]
    fn groups_of_imports_are_spread_out() {
        assert_eq!(
            joined("use a::{b::{self, c}, d as e, f::*}; use g; x(crate::h::<i::j>(), k.l::m)"),
            [
                "a::b::self",
                "a::b::c",
                "a::d",
                "a::f",
                "g",
                "crate::h",
                "i::j"
            ]
        );
    }
}
