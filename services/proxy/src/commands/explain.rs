//! `firstlight explain REF`: what the proxy would make of a reference, and why.

use std::io::{self, Write};

use anyhow::Context;
use api::Reference;
use catalog::TagRow;
use serde::Serialize;

use super::Report;
use super::image_ref::{ImageRef, Resolved, full_name};
use super::known::{Knowledge, Known};
use super::table::age;
use crate::clock::now_ms;
use crate::config::{Config, Upstream, View, Visibility};
use crate::remotes::Remotes;
use crate::views::HOLD;

/// What the proxy would make of a reference.
#[derive(Debug, Serialize)]
pub struct ExplainReport {
    /// The reference as given.
    pub reference: String,
    /// Upstream, repository and tag or digest.
    pub name: String,
    /// The upstream.
    pub upstream: UpstreamReport,
    /// What was done to the name.
    pub note: Option<String>,
    /// Which view is answered, by how the request comes.
    pub views: Vec<ViewReport>,
    /// What is known of the tag; absent for a digest and for a tag that was never asked about.
    pub tag: Option<TagReport>,
    /// What is known of the image.
    pub image: Knowledge,
    /// What is not known, or still to happen.
    pub unknown: Vec<String>,
}

/// The upstream of a reference.
#[derive(Debug, Serialize)]
pub struct UpstreamReport {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// What decided for it.
    pub chosen_by: &'static str,
    /// Who may read what was pulled.
    pub visibility: Visibility,
    /// Whether credentials are configured.
    pub credentials: bool,
}

/// Which view a request gets.
#[derive(Debug, Serialize)]
pub struct ViewReport {
    /// How the request comes.
    pub request: &'static str,
    /// The view it asks for.
    pub view: View,
    /// What decides so.
    pub because: String,
    /// What it is answered now.
    pub answer: String,
}

/// What is known of a tag.
#[derive(Debug, Serialize)]
pub struct TagReport {
    /// What it meant when the upstream was last asked.
    pub digest: api::Digest,
    /// Milliseconds since then.
    pub checked_ms_ago: i64,
    /// Milliseconds for which the upstream is not asked again; 0 when the next request asks.
    pub fresh_ms: i64,
    /// Milliseconds for which it is served while the upstream cannot be reached.
    pub stale_ms: i64,
    /// Milliseconds for which the tag still shows the original view, having shown it.
    pub held_ms: i64,
}

/// Explains `text` from the configuration and what is stored; no upstream is contacted.
///
/// # Errors
/// When the reference is malformed or means nothing here, or the catalog cannot be read.
pub async fn run(config: &Config, text: &str) -> anyhow::Result<ExplainReport> {
    let reference = ImageRef::parse(text).with_context(|| format!("{text:?} is not an image"))?;
    let remotes = Remotes::build(config)?;
    let Resolved { target, note } = reference.resolve(&remotes).with_context(|| text.to_owned())?;
    let upstream = &target.remote.config;
    let known = Known::open(config).await?;
    let (mut tag, mut image, mut unknown) = (None, Knowledge::default(), Vec::new());
    if let Some(known) = &known {
        let row = known.tag(&target.repository, &reference.reference).await?;
        tag = row.as_ref().map(|row| tag_report(row, upstream, config));
        let digest = match (&reference.reference, row) {
            (Reference::Digest(digest), _) => Some(digest.clone()),
            (Reference::Tag(_), row) => row.map(|row| row.digest),
        };
        if let Some(digest) = digest {
            image = known.image(&target.repository, &digest).await?;
        }
    } else {
        unknown.push(format!("nothing is stored at {} yet", config.storage.path.display()));
    }
    match &reference.reference {
        Reference::Tag(_) if image.digest.is_none() => {
            unknown.push("the tag was never asked for: the first request asks the upstream what it means".into());
        }
        Reference::Tag(_) | Reference::Digest(_) if !image.cached => {
            unknown.push("the manifest is not cached: the first request fetches it; its layers are not known".into());
        }
        Reference::Tag(_) | Reference::Digest(_) => {}
    }
    let views = views(config, upstream, &reference.reference, tag.as_ref(), &image);
    Ok(ExplainReport {
        reference: text.into(),
        name: full_name(&target.repository, &reference.reference),
        upstream: UpstreamReport {
            name: upstream.name.clone(),
            url: upstream.url.clone(),
            chosen_by: target.chosen_by.as_str(),
            visibility: upstream.visibility,
            credentials: upstream.credentials.is_some(),
        },
        note,
        views,
        tag,
        image,
        unknown,
    })
}

fn tag_report(row: &TagRow, upstream: &Upstream, config: &Config) -> TagReport {
    let (now, millis) = (now_ms(), |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let left = |from: i64, length: std::time::Duration| from.saturating_add(millis(length)).saturating_sub(now).max(0);
    TagReport {
        digest: row.digest.clone(),
        checked_ms_ago: now - row.checked_at,
        fresh_ms: left(row.checked_at, upstream.tag_ttl),
        stale_ms: left(row.checked_at, config.cache.max_stale),
        held_ms: row.original_answered_at.map_or(0, |at| left(at, HOLD)),
    }
}

fn views(
    config: &Config,
    upstream: &Upstream,
    reference: &Reference,
    tag: Option<&TagReport>,
    image: &Knowledge,
) -> Vec<ViewReport> {
    let listen = format!("view of upstream {}", upstream.name);
    let mirror = format!("mirror_view of upstream {}", upstream.name);
    let ways = [
        ("server.listen", upstream.view, &listen),
        ("server.mirror_listen", upstream.mirror_view, &mirror),
        ("ns=", upstream.mirror_view, &mirror),
    ];
    ways.into_iter()
        .filter(|(request, ..)| *request != "server.mirror_listen" || config.server.mirror_listen.is_some())
        .map(|(request, view, because)| {
            let (view, because) = match reference {
                Reference::Digest(_) if image.asked_for_view => (View::Estargz, "the digest is that of the view"),
                Reference::Digest(_) => (View::Original, "by digest the bytes are always those of the digest"),
                Reference::Tag(_) => (view, because.as_str()),
            };
            let answer = answer(config, view, tag, image);
            ViewReport { request, view, because: because.into(), answer }
        })
        .collect()
}

fn answer(config: &Config, view: View, tag: Option<&TagReport>, image: &Knowledge) -> String {
    let original = || image.digest.as_ref().map_or_else(|| "what the upstream says".to_owned(), ToString::to_string);
    if view == View::Original {
        return original();
    }
    let held = tag.map_or(0, |tag| tag.held_ms);
    match &image.estargz {
        Some(_) if !config.convert.enabled => format!("{} (convert.enabled is false)", original()),
        Some(_) if held > 0 => format!("{} for {} more: a client got it just now", original(), age(held)),
        Some(view) => view.to_string(),
        None if !config.convert.enabled => format!("{} (convert.enabled is false)", original()),
        None => match image.layers_done() {
            (0, _) => format!("{} until it is converted", original()),
            (all, done) if all == done => format!("{}: the view is not built yet, or no layer has a twin", original()),
            (all, done) => format!("{} until it is converted: {done} of {all} layers are done", original()),
        },
    }
}

impl Report for ExplainReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "name       {}", self.name)?;
        let UpstreamReport { name, url, chosen_by, .. } = &self.upstream;
        let credentials = if self.upstream.credentials { "with credentials" } else { "without credentials" };
        writeln!(out, "upstream   {name} at {url}, {credentials}, chosen by: {chosen_by}")?;
        for ViewReport { request, view, because, answer } in &self.views {
            writeln!(out, "view       {request}: {view} ({because})\n           answers {answer}")?;
        }
        if let Some(tag) = &self.tag {
            let next = match tag.fresh_ms {
                0 => "the next request asks the upstream".to_owned(),
                left => format!("fresh for {} more", age(left)),
            };
            let stale = match tag.stale_ms {
                0 => "not served without the upstream".to_owned(),
                left => format!("without the upstream served for {} more", age(left)),
            };
            writeln!(
                out,
                "tag        {}\n           checked {} ago, {next}; {stale}",
                tag.digest,
                age(tag.checked_ms_ago)
            )?;
        }
        if let Some(digest) = &self.image.digest {
            let cached = if self.image.cached { "cached" } else { "not cached" };
            let link = self.image.link.unwrap_or("none");
            writeln!(out, "manifest   {digest}\n           {cached}, link of the repository: {link}")?;
        }
        for note in self.note.iter().chain(&self.unknown) {
            writeln!(out, "note       {note}")?;
        }
        self.image.write_images(out)
    }
}
