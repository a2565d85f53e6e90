//! Conversions that no process does.

use std::time::{Duration, Instant};

use api::Digest;

use super::{digest, repository};
use crate::{Catalog, CatalogError, Claim, Owner, Work};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
/// Over before anybody looks again.
const SHORT: Duration = Duration::from_millis(1);
/// Far longer than a short lease lasts.
const LIMIT: Duration = Duration::from_secs(120);

/// What a process died over is listed when its lease ran out long enough ago; what one gave up, when the pause is over; what has
/// no lease at once.
pub(super) async fn a_dead_owners_conversion_rests_for_a_while(catalog: &Catalog) -> Result<(), CatalogError> {
    let (source, profile) = (digest("resting source"), "p-resting");
    let is_listed = async |idle: Duration| {
        let found = catalog.abandoned_conversions(profile, idle, None, 10).await?;
        Ok::<_, CatalogError>(found.iter().any(|(found, _)| *found == source))
    };
    catalog.begin_conversion(&source, profile, &repository("resting/home")).await?;
    assert!(is_listed(LONG).await?, "nobody has the bytes of what nobody began");

    let work = Work::Conversion { source: source.clone(), profile: profile.into() };
    let owner = Owner { id: "a".into(), address: String::new() };
    let Claim::Granted(lease) = catalog.claim(&work, &owner, SHORT).await? else { panic!("{work} is held") };
    let begin = Instant::now();
    while !is_listed(Duration::ZERO).await? {
        assert!(begin.elapsed() < LIMIT, "the lease does not run out");
    }
    assert!(!is_listed(LONG).await?, "it ran out a moment ago");
    catalog.release(&lease).await?;
    assert!(is_listed(LONG).await?);

    catalog.defer_conversion(&source, profile, LONG).await?;
    catalog.defer_conversion(&source, profile, SHORT).await?;
    assert!(!is_listed(Duration::ZERO).await?, "it was given up a moment ago");
    assert!(!catalog.is_postponed(&source, profile).await?, "nothing failed");
    Ok(())
}

/// Every page begins behind the one before.
pub(super) async fn conversions_come_page_by_page(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, profile) = (repository("pages/home"), "p-pages");
    let mut expected: Vec<Digest> = (0..5).map(|n| digest(&format!("pages {n}"))).collect();
    for source in &expected {
        catalog.begin_conversion(source, profile, &home).await?;
    }
    expected.sort_by_key(Digest::to_string);
    let mut found: Vec<Digest> = Vec::new();
    loop {
        let page = catalog.abandoned_conversions(profile, Duration::ZERO, found.last(), 2).await?;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2 && found.len() < expected.len(), "{page:?} after {found:?}");
        found.extend(page.into_iter().map(|(source, _)| source));
    }
    assert_eq!(found, expected);
    Ok(())
}
