//! [`Filter`]: containerd's language for choosing among snapshots.
//!
//! A filter is a list of selectors, separated by commas, all of which must hold: a field such as `name`, `parent`, `kind`
//! or `labels."containerd.io/gc.root"`, alone (it is there and not empty) or with `==`, `!=` or `~=` (a regular expression)
//! and a value, which is quoted where it holds a comma or a space.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use crate::Info;

/// What a snapshot must be like.
#[derive(Debug)]
pub struct Filter {
    selectors: Vec<Selector>,
}

/// Why a filter cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter:?}: {what}")]
pub struct FilterError {
    filter: String,
    what: String,
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Parses a filter. An empty one holds for all.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(filter: &str) -> Result<Self, FilterError> {
        let mut parser = Parser { rest: filter.chars().peekable() };
        parser.filter().map_err(|what| FilterError { filter: filter.to_owned(), what })
    }

    /// Tells whether a snapshot is like that.
    pub fn holds(&self, info: &Info) -> bool {
        self.selectors.iter().all(|selector| selector.holds(info))
    }
}

impl Selector {
    fn holds(&self, info: &Info) -> bool {
        let value = field(info, &self.path);
        let text = value.as_deref().unwrap_or_default();
        match &self.test {
            Test::Present => !text.is_empty(),
            Test::Equal(wanted) => value.is_some() && text == wanted,
            Test::NotEqual(unwanted) => text != unwanted,
            Test::Matches(pattern) => value.is_some() && pattern.is_match(text),
        }
    }
}

/// Returns a field of a snapshot; `None` where it has none like that.
fn field(info: &Info, path: &[String]) -> Option<String> {
    match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["name"] => Some(info.name.clone()),
        ["parent"] => Some(info.parent.clone().unwrap_or_default()),
        ["kind"] => Some(info.kind.to_string()),
        // A label's own dots may have been taken for the path's.
        ["labels", label @ ..] => info.labels.get(&label.join(".")).cloned(),
        _ => None,
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn filter(&mut self) -> Result<Filter, String> {
        let mut selectors = Vec::new();
        while self.rest.peek().is_some() {
            selectors.push(self.selector()?);
            match self.rest.next() {
                None | Some(',') => {}
                Some(other) => return Err(format!("{other:?} where a comma was expected")),
            }
        }
        Ok(Filter { selectors })
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut path = vec![self.field()?];
        while self.rest.next_if_eq(&'.').is_some() {
            path.push(self.field()?);
        }
        let test = match self.rest.peek() {
            None | Some(',') => Test::Present,
            Some(_) => {
                let operator = [self.rest.next(), self.rest.next()];
                let value = self.value()?;
                match operator {
                    [Some('='), Some('=')] => Test::Equal(value),
                    [Some('!'), Some('=')] => Test::NotEqual(value),
                    [Some('~'), Some('=')] => Test::Matches(Regex::new(&value).map_err(|error| error.to_string())?),
                    _ => return Err("none of the operators ==, != and ~= behind a field".to_owned()),
                }
            }
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, String> {
        if self.rest.peek() == Some(&'"') {
            return self.quoted();
        }
        let name = self.while_some(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            Ok(name)
        } else {
            Err("a field without a name".to_owned())
        }
    }

    fn value(&mut self) -> Result<String, String> {
        match self.rest.peek() {
            Some('"') => self.quoted(),
            _ => Ok(self.while_some(|c| c != ',' && !c.is_whitespace())),
        }
    }

    fn while_some(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let mut part = String::new();
        while let Some(next) = self.rest.next_if(|&next| is_part(next)) {
            part.push(next);
        }
        part
    }

    fn quoted(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(text),
                Some('\\') => match self.rest.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(escaped @ ('"' | '\\' | '\'')) => text.push(escaped),
                    _ => return Err("an escape that is none of \\\", \\\\, \\n, \\r and \\t".to_owned()),
                },
                Some(other) => text.push(other),
                None => return Err("a quote without its end".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Labels, Moment};

    #[test]
    fn filters_choose() {
        let labels = [("containerd.io/snapshot.ref", "sha256:1"), ("plain", "a b,c"), ("empty", "")];
        let labels: Labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let now = Moment::now();
        let (name, parent, kind) = ("default/7/sha256:2".to_owned(), None, Kind::Committed);
        let info = Info { name, parent, kind, created_at: now, updated_at: now, labels };
        for (filter, expected) in [
            ("", true),
            ("name", true),
            ("parent", false),
            ("parent==", true),
            ("name==default/7/sha256:2", true),
            ("name==other", false),
            ("name!=other,kind==committed", true),
            ("kind==active", false),
            ("name~=^default/.*:2$", true),
            ("name~=^other", false),
            (r#"labels."containerd.io/snapshot.ref"==sha256:1"#, true),
            (r#"labels."containerd.io/snapshot.ref"==sha256:1,parent==x"#, false),
            (r#"labels.plain=="a b,c""#, true),
            ("labels.empty", false),
            ("labels.missing!=x", true),
            ("labels.missing==", false),
            ("unheard.of", false),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().holds(&info), expected, "{filter}");
        }
        for wrong in ["=x", "name=x", "name==\"x", "name==x y", "labels.==x", "name~=(", "na me", ",name"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
