//! What a relay breaks, and when.

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The body comes at this many bytes a second (per answer).
    Throttle(u64),
    /// The connection is cut in front of this offset of the blob, by whichever request comes to it from before.
    Cut(u64),
    /// The byte at this offset of the blob is flipped.
    Corrupt(u64),
    /// This status and an empty body instead of the answer, with these headers.
    Status(u16, Vec<(String, String)>),
    /// This content type and body, with status 200, instead of the answer.
    Document(String, Vec<u8>),
    /// `Range` is taken out of the request, so that the answer is 200 and whole; `Accept-Ranges` out of the answer.
    NoRange,
}

/// When something goes wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Requests whose path and query contain this.
    pub path: String,
    /// Of these, only this method; all when `None`.
    pub method: Option<String>,
    /// What goes wrong with them.
    pub fault: Fault,
    /// How many times it happens; always when `None`. A cut counts when it is made, all else when a request matches.
    pub times: Option<u32>,
}

impl Rule {
    /// Makes a rule for every request whose path contains `path`.
    pub fn new(path: &str, fault: Fault) -> Self {
        Self { path: path.to_owned(), method: None, fault, times: None }
    }

    /// Limits the rule to the next `times` requests.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Limits the rule to one method.
    pub fn method(self, method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..self }
    }
}

/// The faults that apply to one request.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) throttle: Option<u64>,
    pub(super) cut: Option<u64>,
    pub(super) corrupt: Option<u64>,
    pub(super) status: Option<(u16, Vec<(String, String)>)>,
    pub(super) document: Option<(String, Vec<u8>)>,
    pub(super) no_range: bool,
}

impl Faults {
    /// Finds the rules that match a request, and counts them down.
    pub(super) fn take(rules: &mut [Rule], method: &str, path: &str) -> Self {
        let mut faults = Self::default();
        for rule in rules {
            let matches = path.contains(&rule.path) && rule.method.as_deref().is_none_or(|wanted| wanted == method);
            if !matches || rule.times == Some(0) {
                continue;
            }
            match &rule.fault {
                Fault::Throttle(rate) if faults.throttle.is_none() => faults.throttle = Some((*rate).max(1)),
                Fault::Cut(after) if faults.cut.is_none() => faults.cut = Some(*after),
                Fault::Corrupt(at) if faults.corrupt.is_none() => faults.corrupt = Some(*at),
                Fault::Status(code, headers) if faults.status.is_none() => {
                    faults.status = Some((*code, headers.clone()))
                }
                Fault::Document(kind, body) if faults.document.is_none() => {
                    faults.document = Some((kind.clone(), body.clone()))
                }
                Fault::NoRange => faults.no_range = true,
                _ => continue,
            }
            if !matches!(rule.fault, Fault::Cut(_)) {
                rule.times = rule.times.map(|left| left - 1);
            }
        }
        faults
    }

    /// Counts a cut down; returns whether there was one left to make.
    pub(super) fn take_cut(rules: &mut [Rule], at: u64) -> bool {
        let cut =
            rules.iter_mut().find(|rule| matches!(rule.fault, Fault::Cut(cut) if cut == at) && rule.times != Some(0));
        cut.is_some_and(|rule| {
            rule.times = rule.times.map(|left| left - 1);
            true
        })
    }
}
