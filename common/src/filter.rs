//! The filter grammar, one for every list and every face: `job=scrape state=failed,backoff age>10m
//! node~/db_[0-9]+/ !worker=w7 web`.
//!
//! Terms are separated by spaces, and all must hold; `!` in front turns one around. `key=a,b` is
//! one of these, `key~text` has this text in it, `key~/regex/` matches, `key>n` and `key<n` compare
//! numbers and durations (`90s`, `10m`, `2h`, `1d`). A word or a `/regex/` by itself is about names.
//! Spaces go into double quotes. Text without capitals is found in any case.

use regex::Regex;
use std::fmt;

/// A regular expression may become so large, compiled, and there may be so many of them: whoever
/// looks must not cost those who work.
const REGEX_BYTES_MAX: usize = 128 << 10;
const REGEXES_MAX: usize = 8;
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Fewer than bits in a word, which remember which of them hold.
pub const TERMS_MAX: usize = 60;

/// What a list can be filtered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    /// In seconds where no unit is given.
    Duration,
}

impl Key {
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: Kind::Number }
    }

    pub const fn duration(name: &'static str) -> Self {
        Self { name, kind: Kind::Duration }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub terms: Vec<Term>,
}

#[derive(Clone, Debug)]
pub struct Term {
    pub negated: bool,
    /// Empty: about names.
    pub key: &'static str,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    OneOf(Vec<String>),
    Contains { text: String, any_case: bool },
    Matches(Regex),
    Above(f64),
    Below(f64),
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FilterError {
    #[error("{word:?} in the filter: there is no {key:?}; there are {known}")]
    UnknownKey { word: String, key: String, known: String },
    #[error("{word:?} in the filter: {what}")]
    Term { word: String, what: String },
    #[error("the filter has more than {TEXT_BYTES_MAX} bytes, or more than {TERMS_MAX} terms")]
    TooLong,
    #[error("the filter has more than {REGEXES_MAX} regular expressions")]
    TooMany,
    #[error("the filter has a quote that does not end")]
    OpenQuote,
}

impl Filter {
    pub fn parse(text: &str, keys: &[Key]) -> Result<Self, FilterError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        let words = words(text)?;
        if words.len() > TERMS_MAX {
            return Err(FilterError::TooLong);
        }
        let terms = words.iter().map(|word| Term::parse(word, keys));
        let terms: Vec<Term> = terms.collect::<Result<_, _>>()?;
        let regexes = terms.iter().filter(|term| matches!(term.test, Test::Matches(_))).count();
        if regexes > REGEXES_MAX { Err(FilterError::TooMany) } else { Ok(Self { terms }) }
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms with this key; all must hold.
    pub fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Term> {
        self.terms.iter().filter(move |term| term.key == key)
    }

    /// Do the terms about names hold for something with these?
    pub fn named(&self, names: &[&str]) -> bool {
        self.of("").all(|term| term.holds_for_any(names))
    }
}

/// `key=value` as a term that means exactly this, whatever the value is.
pub fn exactly(key: &str, value: &str) -> String {
    quoted(&format!("{key}={}", value.replace('\\', "\\\\").replace(',', "\\,")))
}

/// The filter with this as the one thing that it says about what a key is; or with nothing.
pub fn with(filter: &str, key: &str, values: Option<&str>) -> String {
    let about = format!("{key}=");
    // What cannot be read yet is left to who reads it.
    let words = words(filter).unwrap_or_else(|_| vec![filter.to_owned()]);
    let kept = words.iter().filter(|word| !word.starts_with(&about)).map(|word| quoted(word));
    kept.chain(values.map(|values| format!("{about}{values}"))).collect::<Vec<_>>().join(" ")
}

/// `key~/^text/`: names that begin so, whatever the text is.
pub fn beginning(key: &str, text: &str) -> String {
    quoted(&format!("{key}~/^{}/", regex::escape(text)))
}

/// A word as it is written in a filter.
fn quoted(word: &str) -> String {
    match word.contains(|c: char| c.is_whitespace() || c == '"') {
        true => format!("\"{}\"", word.replace('"', "\"\"")),
        false => word.to_owned(),
    }
}

/// Words between spaces. Within quotes a space is a space, and two quotes are one.
fn words(text: &str) -> Result<Vec<String>, FilterError> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => {
                word.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quoted { Err(FilterError::OpenQuote) } else { Ok(words) }
}

impl Term {
    fn parse(word: &str, keys: &[Key]) -> Result<Self, FilterError> {
        let wrong = |what: &str| FilterError::Term { word: word.to_owned(), what: what.to_owned() };
        let (negated, rest) = match word.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        let operator = match rest.starts_with('/') {
            true => None,
            false => rest.find(['=', '~', '<', '>']),
        };
        let Some(at) = operator else {
            if rest.is_empty() {
                return Err(wrong("expected a word after !"));
            }
            return Ok(Self { negated, key: "", test: text_test(word, rest)? });
        };
        let (name, operator, value) = (&rest[..at], &rest[at..=at], &rest[at + 1..]);
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let known: Vec<_> = keys.iter().map(|key| key.name).collect();
            return Err(FilterError::UnknownKey {
                word: word.to_owned(),
                key: name.to_owned(),
                known: known.join(", "),
            });
        };
        let number = || number(value, key.kind).ok_or_else(|| wrong("expected a number"));
        let test = match (operator, key.kind) {
            ("=", Kind::Number | Kind::Duration) => {
                return Err(wrong("numbers compare with < or >"));
            }
            ("<" | ">", Kind::Text) => return Err(wrong("texts compare with = or ~")),
            ("<", _) => Test::Below(number()?),
            (">", _) => Test::Above(number()?),
            ("~", Kind::Text) => text_test(word, value)?,
            ("=", Kind::Text) => Test::OneOf(values(value)),
            _ => return Err(wrong("numbers compare with < or >")),
        };
        Ok(Self { negated, key: key.name, test })
    }

    pub fn holds_for(&self, text: &str) -> bool {
        self.holds_for_any(&[text])
    }

    /// For something that has several names, or none.
    pub fn holds_for_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is_in(text)) != self.negated
    }

    fn is_in(&self, text: &str) -> bool {
        match &self.test {
            Test::OneOf(values) => values.iter().any(|value| value == text),
            Test::Contains { text: wanted, any_case: true } => {
                text.to_lowercase().contains(wanted.as_str())
            }
            Test::Contains { text: wanted, any_case: false } => text.contains(wanted.as_str()),
            Test::Matches(regex) => regex.is_match(text),
            Test::Above(_) | Test::Below(_) => false,
        }
    }

    /// What has no such number is neither above nor below.
    pub fn holds_for_number(&self, number: Option<f64>) -> bool {
        let is_so = match (&self.test, number) {
            (Test::Above(than), Some(number)) => number > *than,
            (Test::Below(than), Some(number)) => number < *than,
            _ => false,
        };
        is_so != self.negated
    }
}

/// `a,b`; `\,` is a comma in a value.
fn values(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => values.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
                values.last_mut().expect("there is one from the start").push(c);
            }
        }
    }
    values
}

fn text_test(word: &str, text: &str) -> Result<Test, FilterError> {
    let inner = text.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let Some(regex) = inner else {
        let any_case = !text.chars().any(char::is_uppercase);
        return Ok(Test::Contains { text: text.to_owned(), any_case });
    };
    let built = regex::RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build();
    let regex = built.map_err(|error| {
        // The parser's own message is a drawing of several lines; its last says what is wrong.
        let text = error.to_string();
        let what = text.lines().last().unwrap_or("not a regular expression").trim().to_owned();
        FilterError::Term { word: word.to_owned(), what }
    })?;
    Ok(Test::Matches(regex))
}

fn number(text: &str, kind: Kind) -> Option<f64> {
    let (digits, unit) = match kind {
        Kind::Duration => {
            text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()))
        }
        _ => (text, ""),
    };
    let factor = match unit {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    digits.parse().ok().filter(|number: &f64| number.is_finite()).map(|number| number * factor)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] =
        &[Key::text("job"), Key::text("node"), Key::duration("age"), Key::number("failed")];

    fn parse(text: &str) -> Result<Filter, String> {
        Filter::parse(text, KEYS).map_err(|error| error.to_string())
    }

    fn passes(text: &str, job: &str, node: &str, age: Option<f64>) -> bool {
        let filter = parse(text).unwrap();
        filter.named(&[job, node])
            && filter.of("job").all(|term| term.holds_for(job))
            && filter.of("node").all(|term| term.holds_for(node))
            && filter.of("age").all(|term| term.holds_for_number(age))
    }

    #[test]
    fn every_kind_of_term() {
        let is = |text| passes(text, "scrape", "DB_17", Some(700.0));
        for yes in [
            "",
            "job=scrape",
            "job=a,scrape",
            "node~db_1",
            "node~/_[0-9]+$/",
            "age>10m",
            "age<1h",
            "!job=backup",
            "!age<10m",
            "scrape",
            "db",
            "/^scr/",
            "!/^x/",
            "job=scrape age>11m db",
            "\"job=scrape\"",
            "/^DB",
        ] {
            assert!(is(yes), "{yes}");
        }
        for no in [
            "job=scrap",
            "!job=scrape",
            "node~Db",
            "node~/^_/",
            "age>12m",
            "age<600",
            "!db",
            "x",
            "job=scrape x",
        ] {
            assert!(!is(no), "{no}");
        }
        assert!(!passes("age>1", "j", "n", None) && !passes("age<1", "j", "n", None));
    }

    #[test]
    fn any_value_can_be_meant_exactly() {
        for value in ["a", "a b", "a,b", "a\"b", "a\\b", "!a", "", "x=y", "/x/", "\\,", " "] {
            assert!(passes(&exactly("job", value), value, "n", None), "{value}");
            assert!(!passes(&exactly("job", value), "other", "n", None), "{value}");
            assert!(passes(&beginning("job", value), &format!("{value}s"), "n", None), "{value}");
        }
    }

    #[test]
    fn what_a_filter_says_of_a_key_is_replaced() {
        let filter = "\"job=a b\" state=failed x";
        assert_eq!(with(filter, "state", Some("done")), "\"job=a b\" x state=done");
        assert_eq!(with(filter, "state", None), "\"job=a b\" x");
        assert_eq!(with("", "state", Some("done")), "state=done");
    }

    #[test]
    fn what_is_wrong_is_said_with_the_word_that_is() {
        let error = |text| parse(text).unwrap_err();
        assert_eq!(
            error("job=a stat=x"),
            "\"stat=x\" in the filter: there is no \"stat\"; there are job, node, age, failed"
        );
        assert!(error("node~/(/").contains("unclosed group"), "{}", error("node~/(/"));
        assert!(error("age>soon").contains("expected a number"));
        assert!(error("age>1w").contains("expected a number"));
        assert!(error("job>3").contains("texts compare"));
        assert!(error("failed=3").contains("numbers compare"));
        assert!(error("\"job=a").contains("quote"));
        assert!(error("!").contains("after !"));
        assert!(parse(&"x".repeat(5_000)).is_err() && parse(&"x ".repeat(61)).is_err());
        assert!(error("node~/(a{1000}){1000}/").contains("size"));
        assert!(error(&"/x/ ".repeat(9)).contains("regular expressions"));
    }
}
