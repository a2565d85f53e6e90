//! Leases.

use std::time::{Duration, Instant};

use api::UnconvertibleReason;
use tokio::task::JoinSet;

use super::{blob, digest, repository, twins};
use crate::{Catalog, CatalogError, Claim, Lease, LinkState, Owner, TwinState, Work};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
/// Over before anybody looks again.
const SHORT: Duration = Duration::from_millis(1);
/// Far longer than a short lease lasts.
const LIMIT: Duration = Duration::from_secs(120);

fn owner(name: &str) -> Owner {
    Owner { id: name.into(), address: format!("{name}:5083") }
}

fn fill(name: &str) -> Work {
    Work::Fill { digest: digest(name), upstream: "docker.io".into() }
}

fn conversion(name: &str) -> Work {
    Work::Conversion { source: digest(name), profile: "p-lease".into() }
}

async fn granted(catalog: &Catalog, work: &Work, name: &str, ttl: Duration) -> Result<Lease, CatalogError> {
    match catalog.claim(work, &owner(name), ttl).await? {
        Claim::Granted(lease) => Ok(lease),
        held @ Claim::Held { .. } => panic!("{work} is {held:?}"),
    }
}

/// Claims for `name` until the lease of another has run out.
async fn taken_over(catalog: &Catalog, work: &Work, name: &str) -> Result<Lease, CatalogError> {
    let begin = Instant::now();
    loop {
        match catalog.claim(work, &owner(name), LONG).await? {
            Claim::Granted(lease) => return Ok(lease),
            held @ Claim::Held { .. } => assert!(begin.elapsed() < LIMIT, "{work} stays {held:?}"),
        }
    }
}

fn is_lost<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> bool {
    matches!(result, Err(CatalogError::LeaseLost { .. }))
}

/// Of many that claim at once, on two catalogs, one gets the work, and the others learn who it is.
pub(super) async fn one_of_many_gets_the_work(catalogs: [&Catalog; 2]) -> Result<(), CatalogError> {
    for work in [fill("lease race"), conversion("lease race")] {
        let mut callers = JoinSet::new();
        for n in 0..50 {
            let (catalog, work) = (catalogs[n % 2].clone(), work.clone());
            callers.spawn(async move { catalog.claim(&work, &owner(&format!("owner {n}")), LONG).await });
        }
        let (mut leases, mut holders) = (Vec::new(), Vec::new());
        while let Some(claim) = callers.join_next().await {
            match claim.expect("no caller panics")? {
                Claim::Granted(lease) => leases.push(lease),
                Claim::Held { by, expires_in } => {
                    assert!(expires_in <= LONG && expires_in > LONG / 2, "{expires_in:?}");
                    holders.push(by);
                }
            }
        }
        assert_eq!(leases.len(), 1, "{leases:?}");
        holders.dedup();
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert_eq!(catalogs[0].holder(&work).await?.as_ref(), holders.first());
        catalogs[1].release(&leases[0]).await?;
        assert_eq!(catalogs[0].holder(&work).await?, None);
    }
    Ok(())
}

/// A lease lasts as long as it is renewed; when it has run out another process takes the work, and the first one can
/// neither renew nor release it.
pub(super) async fn leases_run_out(catalog: &Catalog) -> Result<(), CatalogError> {
    let work = fill("lease runs out");
    let first = granted(catalog, &work, "a", SHORT).await?;
    // Late, but nobody else came.
    tokio::time::sleep(SHORT * 5).await;
    assert_eq!(catalog.holder(&work).await?, None);
    catalog.heartbeat(&first, LONG).await?;
    assert_eq!(catalog.holder(&work).await?, Some(owner("a")));
    assert!(matches!(catalog.claim(&work, &owner("b"), LONG).await?, Claim::Held { by, .. } if by == owner("a")));

    catalog.heartbeat(&first, SHORT).await?;
    let second = taken_over(catalog, &work, "b").await?;
    assert_ne!(second.epoch(), first.epoch());
    assert!(is_lost(catalog.heartbeat(&first, LONG).await));
    catalog.release(&first).await?;
    assert_eq!(catalog.holder(&work).await?, Some(owner("b")));

    // A claim whose answer got lost is repeated; it is a new lease.
    let third = granted(catalog, &work, "b", LONG).await?;
    assert_ne!(third.epoch(), second.epoch());
    assert!(is_lost(catalog.heartbeat(&second, LONG).await));
    catalog.release(&third).await?;
    assert!(is_lost(catalog.heartbeat(&third, LONG).await));
    let fourth = granted(catalog, &work, "a", LONG).await?;
    assert_ne!(fourth.epoch(), third.epoch());
    catalog.release(&fourth).await
}

/// Kinds, upstreams and profiles of one digest are apart.
pub(super) async fn leases_are_apart(catalog: &Catalog) -> Result<(), CatalogError> {
    let works = [
        fill("lease apart"),
        Work::Fill { digest: digest("lease apart"), upstream: "ghcr.io".into() },
        conversion("lease apart"),
        Work::Conversion { source: digest("lease apart"), profile: "docker.io".into() },
    ];
    for (n, work) in works.iter().enumerate() {
        granted(catalog, work, &format!("owner {n}"), LONG).await?;
    }
    for (n, work) in works.iter().enumerate() {
        assert_eq!(catalog.holder(work).await?, Some(owner(&format!("owner {n}"))));
    }
    Ok(())
}

/// Who lost a lease commits nothing; who has it commits and ends it.
pub(super) async fn only_the_holder_commits(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("lease/home");
    let (row, work) = (blob("lease blob"), fill("lease blob"));
    catalog.begin_fill(&row.digest, &home, row.size).await?;
    let old = granted(catalog, &work, "a", SHORT).await?;
    let new = taken_over(catalog, &work, "b").await?;
    assert!(is_lost(catalog.holding(&old).add_blob(&row, &[&home]).await));
    assert_eq!(catalog.blob(&row.digest).await?, None);
    assert_eq!(catalog.is_linked(&home, &row.digest).await?, LinkState::None);
    assert_eq!(catalog.holding(&new).add_blob(&row, &[&home]).await?, row);
    assert_eq!(catalog.holder(&work).await?, None);
    assert!(is_lost(catalog.holding(&new).add_blob(&row, &[]).await), "a lease ends with its commit");

    let (row, work) = (blob("lease fill"), fill("lease fill"));
    let is_begun =
        async || Ok::<_, CatalogError>(catalog.unfinished_fills().await?.iter().any(|f| f.digest == row.digest));
    let old = granted(catalog, &work, "a", SHORT).await?;
    let new = taken_over(catalog, &work, "b").await?;
    catalog.begin_fill(&row.digest, &home, row.size).await?;
    assert!(is_lost(catalog.holding(&old).end_fill().await));
    assert!(is_begun().await? && catalog.holder(&work).await? == Some(owner("b")), "another's fill was ended");
    catalog.holding(&new).end_fill().await?;
    assert!(!is_begun().await? && catalog.holder(&work).await?.is_none());

    for refuses in [false, true] {
        let name = format!("lease source {refuses}");
        let (source, work) = (digest(&name), conversion(&name));
        catalog.begin_conversion(&source, "p-lease", &home).await?;
        let old = granted(catalog, &work, "a", SHORT).await?;
        let new = taken_over(catalog, &work, "b").await?;
        let made = twins::twin(&name);
        let limit = UnconvertibleReason::Limit;
        assert!(is_lost(catalog.holding(&old).finish_conversion(&source, "p-lease", &made, "k", "t").await));
        assert!(is_lost(catalog.holding(&old).refuse_conversion(&source, "p-lease", limit, "").await));
        assert_eq!(catalog.blob(&made.digest).await?, None);
        let row = catalog.twin(&source, "p-lease").await?;
        assert!(row.is_some_and(|row| row.state == TwinState::Converting { attempts: 0 }));
        let state = match refuses {
            true => catalog.holding(&new).refuse_conversion(&source, "p-lease", limit, "").await?,
            false => catalog.holding(&new).finish_conversion(&source, "p-lease", &made, "k", "t").await?,
        };
        assert_eq!(matches!(state, TwinState::Unconvertible { .. }), refuses, "{state:?}");
        assert_eq!(catalog.holder(&work).await?, None);
    }
    Ok(())
}

/// What was begun and has no lease is abandoned; what failed for a passing reason is left alone for a while.
pub(super) async fn abandoned_work_is_listed(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("abandoned/home");
    let (row, fetching) = (blob("abandoned blob"), fill("abandoned blob"));
    let is_listed_after = async |idle| {
        let found = catalog.abandoned_fills(idle, 1000).await?;
        Ok::<_, CatalogError>(found.iter().any(|f| f.digest == row.digest))
    };
    let is_listed = async || is_listed_after(Duration::ZERO).await;
    catalog.begin_fill(&row.digest, &home, row.size).await?;
    assert!(is_listed().await?);
    let lease = granted(catalog, &fetching, "a", LONG).await?;
    assert!(!is_listed().await?);
    catalog.release_all(&owner("another")).await?;
    assert!(!is_listed().await?);
    catalog.release_all(&owner("a")).await?;
    assert!(is_listed().await? && is_lost(catalog.heartbeat(&lease, LONG).await));
    let elsewhere = Work::Fill { digest: row.digest.clone(), upstream: "ghcr.io".into() };
    granted(catalog, &elsewhere, "a", LONG).await?;
    assert!(is_listed().await?, "from another upstream");
    catalog.release_all(&owner("a")).await?;
    let lease = granted(catalog, &fetching, "a", SHORT).await?;
    let begin = Instant::now();
    while !is_listed().await? {
        assert!(begin.elapsed() < LIMIT, "the lease stays");
    }
    assert!(!is_listed_after(LONG).await?, "its followers come first");
    catalog.release(&lease).await?;
    assert!(is_listed_after(LONG).await?, "nobody has it");
    catalog.end_fill(&row.digest, home.upstream()).await?;
    assert!(!is_listed().await?);

    let (source, profile) = (digest("abandoned source"), "p-lease");
    let listed = async || catalog.abandoned_conversions(profile, Duration::ZERO, None, 1000).await;
    let expected = (source.clone(), home.clone());
    catalog.begin_conversion(&source, profile, &home).await?;
    assert!(listed().await?.contains(&expected));
    let lease = granted(catalog, &conversion("abandoned source"), "a", LONG).await?;
    assert!(!listed().await?.contains(&expected));
    catalog.release(&lease).await?;
    catalog.attempt_conversion(&source, profile).await?;
    assert!(listed().await?.contains(&expected) && !catalog.is_postponed(&source, profile).await?);
    for attempts in [0, 0] {
        catalog.forgive_attempt(&source, profile).await?;
        let row = catalog.twin(&source, profile).await?;
        assert!(row.is_some_and(|row| row.state == TwinState::Converting { attempts }));
    }
    catalog.attempt_conversion(&source, profile).await?;
    for _failure in 0..10 {
        catalog.postpone_conversion(&source, profile).await?;
        assert!(!listed().await?.contains(&expected) && catalog.is_postponed(&source, profile).await?);
    }
    let row = catalog.twin(&source, profile).await?;
    assert!(row.is_some_and(|row| row.state == TwinState::Converting { attempts: 0 }));
    Ok(())
}

/// Leases that ran out long ago are removed, others stay.
pub(super) async fn old_leases_are_swept(catalog: &Catalog) -> Result<(), CatalogError> {
    let (old, new) = (fill("swept lease"), fill("kept lease"));
    let lost = granted(catalog, &old, "a", SHORT).await?;
    granted(catalog, &new, "a", LONG).await?;
    catalog.sweep_leases(LONG).await?;
    catalog.heartbeat(&lost, SHORT).await?;
    let begin = Instant::now();
    while catalog.sweep_leases(SHORT).await? == 0 {
        assert!(begin.elapsed() < LIMIT, "the old lease stays");
    }
    assert!(is_lost(catalog.heartbeat(&lost, LONG).await));
    assert_eq!(catalog.holder(&new).await?, Some(owner("a")));
    Ok(())
}
