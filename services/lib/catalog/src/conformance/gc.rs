//! What is evicted, what is not, and what becomes of its keys.

use std::time::Duration;

use api::{Digest, Reference};

use super::twins::twin;
use super::{blob, digest, manifest, repository, tag};
use crate::query::{Value, query};
use crate::{
    BlobRow, Candidate, Catalog, CatalogError, Claim, Deletion, Eviction, Keeper, ManifestRow, Owner, PinRow, Scope,
    TwinState, Work,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Records a blob that takes some room and was last used at `used_at`.
async fn add(catalog: &Catalog, name: &str, used_at: i64) -> Result<BlobRow, CatalogError> {
    let row = BlobRow { size: 100_000, ..blob(name) };
    catalog.add_blob(&row, &[]).await?;
    date(catalog, &row.digest, used_at).await?;
    Ok(row)
}

async fn date(catalog: &Catalog, digest: &Digest, used_at: i64) -> Result<(), CatalogError> {
    let update = query("UPDATE blobs SET used_at = $1 WHERE digest = $2").bind(used_at).bind(digest);
    catalog.writing("date a blob").await?.run(update).await?;
    Ok(())
}

async fn used_at(catalog: &Catalog, digest: &Digest) -> Result<i64, CatalogError> {
    let select = query("SELECT used_at FROM blobs WHERE digest = $1").bind(digest);
    let (used_at,) = catalog.reading("look up a use").await?.one(select).await?;
    Ok(used_at)
}

fn candidate(row: &BlobRow, used_at: i64) -> Candidate {
    Candidate { digest: row.digest.clone(), used_at }
}

async fn kept_by(catalog: &Catalog, digest: &Digest) -> Result<Option<Keeper>, CatalogError> {
    let candidate = Candidate { digest: digest.clone(), used_at: i64::MAX };
    let would = catalog.would_evict(&candidate).await?;
    assert!(catalog.blob(digest).await?.is_some(), "a look changed something");
    match would {
        Eviction::Evicted(_) => Ok(None),
        Eviction::Kept(keeper) => Ok(Some(keeper)),
        Eviction::Newer => panic!("nothing is newer than that"),
    }
}

/// The longest unused come first, page by page; manifests, what is small and what is never evicted where they belong.
pub(super) async fn the_longest_unused_come_first(catalog: &Catalog) -> Result<(), CatalogError> {
    let (old, older) = (add(catalog, "gc old", 30).await?, add(catalog, "gc older", 20).await?);
    let small = BlobRow { size: 10, ..blob("gc small") };
    let document = ManifestRow { size: 100_000, ..manifest("gc manifest") };
    let (form, config) = (manifest("gc form"), blob("gc form's config"));
    catalog.add_blob(&small, &[]).await?;
    catalog.add_manifest(&document, None, &[], None).await?;
    catalog.commit_converted(&document.digest, "p", &form, Some(&config), &[]).await?;
    for digest in [&small.digest, &document.digest, &form.digest, &config.digest] {
        date(catalog, digest, 10).await?;
    }
    let look = async |scope, unused| {
        let (mut all, mut page) = (Vec::<Candidate>::new(), Vec::new());
        while all.is_empty() || !page.is_empty() {
            page = catalog.candidates(scope, unused, all.last(), 1).await?;
            all.append(&mut page.clone());
        }
        Ok::<_, CatalogError>(all)
    };
    // Whatever other tests recorded was used a moment ago.
    let large = look(Scope::Large, HOUR).await?;
    assert_eq!(large, [candidate(&older, 20), candidate(&old, 30)]);
    let all = look(Scope::All, HOUR).await?;
    let mut first = [candidate(&small, 10), candidate(&document.blob(), 10)];
    first.sort_by_key(|candidate| candidate.digest.to_string());
    assert_eq!(all, [&first[..], &large[..]].concat());
    assert!(look(Scope::All, Duration::ZERO).await?.len() > all.len() + 10);

    for row in [&small, &document.blob(), &old, &older] {
        date(catalog, &row.digest, i64::MAX / 2).await?;
    }
    Ok(())
}

/// A source layer, its twin and its TOC go at once, as old as the newest of them; their rows wait for the same twin.
pub(super) async fn a_unit_goes_together(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, made, before) = (repository("gc/unit"), twin("gc unit"), catalog.usage().await?);
    let source = add(catalog, "gc unit source", 10).await?;
    catalog.begin_conversion(&source.digest, "p-gc", &home).await?;
    catalog.attempt_conversion(&source.digest, "p-gc").await?;
    catalog.finish_conversion(&source.digest, "p-gc", &made, "gc k", "gc t").await?;
    date(catalog, &made.digest, 30).await?;
    date(catalog, &made.toc_digest, 20).await?;
    let size = source.size + made.size + made.toc_size;
    assert_eq!(catalog.usage().await?.stored_bytes, before.stored_bytes + size);

    assert_eq!(catalog.evict(&candidate(&source, 10), HOUR).await?, Eviction::Newer);
    assert_eq!(used_at(catalog, &source.digest).await?, 30, "the unit is as old as its newest part");
    let toc = Candidate { digest: made.toc_digest.clone(), used_at: 30 };
    let Eviction::Evicted(would) = catalog.would_evict(&toc).await? else { panic!("it would stay") };
    assert_eq!(catalog.evict(&toc, HOUR).await?, Eviction::Evicted(would.clone()));
    assert_eq!((would.names, would.members.len(), would.used_at), (vec![source.digest.clone()], 3, 30));
    assert_eq!(would.members.iter().map(|member| member.size).sum::<u64>(), size);
    assert_eq!(catalog.evict(&toc, HOUR).await?, Eviction::Newer, "it is gone");

    let after = catalog.usage().await?;
    assert_eq!(after.stored_bytes, before.stored_bytes);
    assert_eq!(after.leaving_bytes, before.leaving_bytes + size);
    let parts = [source.digest.clone(), made.digest.clone(), made.toc_digest.clone()];
    for digest in &parts {
        assert_eq!(catalog.blob(digest).await?, None);
    }
    let mut lost = catalog.lost_of(&[&parts[..], &[digest("gc never")]].concat()).await?;
    lost.sort_by_key(|lost| parts.iter().position(|part| part == lost));
    assert_eq!(lost, parts);
    let state = catalog.begin_conversion(&source.digest, "p-gc", &home).await?;
    assert_eq!(state, TwinState::Converting { attempts: 0 });
    assert!(catalog.unfinished_conversions("p-gc").await?.is_empty(), "evicted twins are not made again by themselves");
    let asked = catalog.lost_twin(&made.digest, &home).await?;
    assert_eq!(asked, Some((source.digest.clone(), "p-gc".to_owned())));

    let again = catalog.finish_conversion(&source.digest, "p-gc", &made, "gc k2", "gc t2").await?;
    assert_eq!(again, TwinState::Ready { twin: made, key: "gc k2".into(), toc_key: "gc t2".into() });
    Ok(())
}

/// However many sources share a twin, they go together, or stay together; beyond a bound they always stay.
pub(super) async fn a_large_unit_goes_together(catalog: &Catalog) -> Result<(), CatalogError> {
    const SOURCES: usize = 1200;
    let (home, made) = (repository("gc/large"), twin("gc large"));
    let source = add(catalog, "gc large source", 10).await?;
    catalog.begin_conversion(&source.digest, "p-gc", &home).await?;
    catalog.finish_conversion(&source.digest, "p-gc", &made, "gc large k", "gc large t").await?;
    let mut sources: Vec<_> = (1..SOURCES).map(|n| blob(&format!("gc large source {n}"))).collect();
    share_twin(catalog, &source.digest, &sources, 10).await?;
    sources.push(source.clone());
    sources.sort_by_key(|row| row.digest.to_string());
    for part in [&made.digest, &made.toc_digest] {
        date(catalog, part, 10).await?;
    }
    let (first, last) = (candidate(&sources[0], 10), &sources[SOURCES - 1]);

    catalog.hold(std::slice::from_ref(&last.digest), "node", HOUR).await?;
    assert_eq!(catalog.evict(&first, HOUR).await?, Eviction::Kept(Keeper::Hold));
    catalog.let_go(std::slice::from_ref(&last.digest), "node").await?;
    date(catalog, &last.digest, 20).await?;
    assert_eq!(catalog.evict(&first, HOUR).await?, Eviction::Newer);
    assert_eq!(used_at(catalog, &first.digest).await?, 20, "the unit is as old as its newest part");

    let Eviction::Evicted(unit) = catalog.evict(&candidate(last, 20), HOUR).await? else { panic!("it stayed") };
    let digests: Vec<_> = sources.iter().map(|row| row.digest.clone()).collect();
    assert_eq!((unit.names, unit.members.len()), (digests.clone(), SOURCES + 2));
    assert_eq!(catalog.lost_of(&digests).await?.len(), SOURCES);
    let keys: Vec<_> = sources.iter().map(|row| (row.digest.clone(), row.key.clone())).collect();
    assert_eq!(catalog.unknown_keys(&keys).await?, [0; 0], "each key is to be deleted");
    for row in [&sources[0], last] {
        let state = catalog.begin_conversion(&row.digest, "p-gc", &home).await?;
        assert_eq!(state, TwinState::Converting { attempts: 0 });
    }

    let more: Vec<_> = (SOURCES..10_000).map(|n| blob(&format!("gc large source {n}"))).collect();
    share_twin(catalog, &source.digest, &more, 10).await?;
    assert_eq!(kept_by(catalog, &more[0].digest).await?, Some(Keeper::Entangled));
    Ok(())
}

/// Records the rows of `others`, and that each of these layers has the twin that `source` has.
async fn share_twin(catalog: &Catalog, source: &Digest, others: &[BlobRow], used_at: i64) -> Result<(), CatalogError> {
    let columns = "profile, state, attempts, repository, twin, twin_size, diff_id, plain_size, toc, toc_size, \
                   source_diff_id, source_plain_size, tail, implied_dirs";
    let mut tx = catalog.begin("share a twin").await?;
    for page in others.chunks(500) {
        let insert = query("INSERT INTO blobs (digest, size, store_key, used_at) VALUES ");
        let rows = page.iter().map(|row| {
            [(&row.digest).into(), Value::Number(row.size as i64), (&row.key).into(), Value::Number(used_at)]
        });
        tx.run(insert.push_rows(rows)).await?;
        let copy = query("INSERT INTO twins (source, ").push(columns).push(") SELECT v.column1, ").push(columns);
        let copy =
            copy.push(" FROM twins t, (VALUES ").bind(source).push_rows(page.iter().map(|row| [(&row.digest).into()]));
        tx.run(copy.push(") AS v WHERE t.source = $1")).await?;
    }
    tx.commit().await
}

/// Views, holds, pins and running work keep a blob and its whole unit, each for as long as it lasts.
pub(super) async fn what_is_needed_stays(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, made) = (repository("gc/needed"), twin("gc needed"));
    let (source, other) = (add(catalog, "gc needed source", 10).await?, add(catalog, "gc other layer", 10).await?);
    catalog.begin_conversion(&source.digest, "p-gc", &home).await?;
    catalog.finish_conversion(&source.digest, "p-gc", &made, "gc needed k", "gc needed t").await?;
    assert_eq!(kept_by(catalog, &made.toc_digest).await?, None);

    catalog.hold(std::slice::from_ref(&made.digest), "node", HOUR).await?;
    assert_eq!(kept_by(catalog, &source.digest).await?, Some(Keeper::Hold));
    assert_eq!(kept_by(catalog, &other.digest).await?, None);
    catalog.hold(std::slice::from_ref(&made.digest), "node", Duration::ZERO).await?;
    assert_eq!(kept_by(catalog, &source.digest).await?, None, "the hold has expired");
    catalog.drop_expired_holds().await?;
    catalog.hold(std::slice::from_ref(&made.digest), "node", HOUR).await?;
    catalog.let_go(std::slice::from_ref(&made.digest), "another node").await?;
    assert_eq!(kept_by(catalog, &source.digest).await?, Some(Keeper::Hold));
    catalog.let_go(std::slice::from_ref(&made.digest), "node").await?;
    assert_eq!(kept_by(catalog, &source.digest).await?, None);

    let owner = Owner { id: "gc worker".into(), address: String::new() };
    let work = Work::Conversion { source: source.digest.clone(), profile: "p-gc".into() };
    let Claim::Granted(lease) = catalog.claim(&work, &owner, HOUR).await? else { panic!("nobody else works") };
    assert_eq!(kept_by(catalog, &made.digest).await?, Some(Keeper::Work));
    catalog.heartbeat(&lease, Duration::ZERO).await?;
    assert_eq!(kept_by(catalog, &made.digest).await?, None, "the lease has expired");
    catalog.release(&lease).await?;
    catalog.begin_fill(&other.digest, &home, 5).await?;
    assert_eq!(kept_by(catalog, &other.digest).await?, Some(Keeper::Work));
    catalog.end_fill(&other.digest, home.upstream()).await?;

    let (index, image, form) = (manifest("gc index"), manifest("gc image"), manifest("gc needed form"));
    let config = blob("gc needed config");
    catalog.add_manifest(&image, None, &[source.digest.clone(), digest("gc not here")], None).await?;
    catalog.add_manifest(&index, None, std::slice::from_ref(&image.digest), None).await?;
    let pin = PinRow { repository: home.clone(), reference: Reference::Tag(tag("v1")), digest: index.digest.clone() };
    let by_digest = PinRow { reference: Reference::Digest(index.digest.clone()), ..pin.clone() };
    assert_eq!(kept_by(catalog, &index.digest).await?, None);
    catalog.add_pin(&PinRow { digest: digest("gc another"), ..pin.clone() }).await?;
    for pin in [&pin, &by_digest] {
        catalog.add_pin(pin).await?;
    }
    assert_eq!(catalog.pins().await?, [by_digest.clone(), pin.clone()]);
    assert!(catalog.remove_pin(&home, &by_digest.reference).await?);
    assert!(!catalog.remove_pin(&home, &by_digest.reference).await?);
    for digest in [&index.digest, &image.digest, &source.digest, &made.digest, &made.toc_digest] {
        assert_eq!(kept_by(catalog, digest).await?, Some(Keeper::Pin));
    }
    let unmoved = catalog.evict(&candidate(&source, i64::MAX), HOUR).await?;
    assert_eq!(unmoved, Eviction::Kept(Keeper::Pin));
    assert_eq!(catalog.blob(&source.digest).await?, Some(source.clone()));
    assert_eq!(kept_by(catalog, &other.digest).await?, None);
    assert!(catalog.remove_pin(&home, &pin.reference).await?);
    assert_eq!(kept_by(catalog, &source.digest).await?, None);

    catalog.commit_converted(&image.digest, "p-gc", &form, Some(&config), std::slice::from_ref(&made.digest)).await?;
    for digest in [&form.digest, &config.digest] {
        assert_eq!(kept_by(catalog, digest).await?, Some(Keeper::View));
    }
    assert_eq!(kept_by(catalog, &made.digest).await?, None, "the view stays, its layers need not");
    Ok(())
}

/// Keys are deleted after their grace and no sooner; a digest stored anew has a key of its own; a row's key is spared.
pub(super) async fn only_dead_keys_are_deleted(catalog: &Catalog) -> Result<(), CatalogError> {
    let (late, soon) = (add(catalog, "gc late", 10).await?, add(catalog, "gc soon", 10).await?);
    assert!(matches!(catalog.evict(&candidate(&late, 10), HOUR).await?, Eviction::Evicted(_)));
    assert!(matches!(catalog.evict(&candidate(&soon, 10), Duration::ZERO).await?, Eviction::Evicted(_)));
    let anew = BlobRow { key: "gc soon, anew".into(), ..soon.clone() };
    assert_eq!(catalog.add_blob(&anew, &[]).await?, anew);
    let due = Deletion { key: soon.key.clone(), size: soon.size };
    assert_eq!(catalog.due_deletions(10).await?, std::slice::from_ref(&due));
    assert!(catalog.due_deletions(0).await?.is_empty());
    assert_eq!(catalog.next_deletion().await?, Some(0));
    let keys = [&late, &soon, &anew].map(|row| (row.digest.clone(), row.key.clone()));
    let orphan = (soon.digest.clone(), "gc orphan".to_owned());
    assert_eq!(catalog.unknown_keys(&[keys.as_slice(), &[orphan]].concat()).await?, [3]);

    catalog.postpone_deletions(std::slice::from_ref(&due), HOUR).await?;
    assert!(catalog.due_deletions(10).await?.is_empty(), "it was left for later");
    assert_eq!(catalog.unknown_keys(&keys).await?, [0; 0], "it is still known");
    catalog.postpone_deletions(std::slice::from_ref(&due), Duration::ZERO).await?;
    assert_eq!(catalog.due_deletions(10).await?, std::slice::from_ref(&due));

    catalog.end_deletions(&[due]).await?;
    assert!(catalog.due_deletions(10).await?.is_empty());
    assert_eq!(catalog.unknown_keys(&keys).await?, [1]);
    assert!(catalog.next_deletion().await?.is_some_and(|left| left > 600_000));

    // A commit whose answer got lost, repeated after the eviction.
    date(catalog, &anew.digest, 10).await?;
    assert!(matches!(catalog.evict(&candidate(&anew, 10), Duration::ZERO).await?, Eviction::Evicted(_)));
    assert_eq!(catalog.add_blob(&anew, &[]).await?, anew);
    assert!(catalog.due_deletions(10).await?.is_empty(), "a row names this key");
    let before = catalog.usage().await?;
    catalog.take_back_deletions().await?;
    assert_eq!(catalog.usage().await?.leaving_bytes, before.leaving_bytes - anew.size);
    Ok(())
}

/// Uses are noted once in a while, undated blobs count as used now, and a chore is due until it was done.
pub(super) async fn moments_are_noted(catalog: &Catalog) -> Result<(), CatalogError> {
    let (used, undated) = (add(catalog, "gc used", 10).await?, add(catalog, "gc undated", 0).await?);
    catalog.note_use(&[used.digest.clone(), digest("gc never stored")], HOUR).await?;
    let earlier = used_at(catalog, &used.digest).await?;
    catalog.note_use(&[used.digest.clone(), digest("gc never stored")], Duration::ZERO).await?;
    let noted = used_at(catalog, &used.digest).await?;
    let newest = used_at(catalog, &add_now(catalog).await?).await?;
    assert!(noted > 10 && noted <= newest, "{noted} {newest}");
    assert!(earlier > 10 && noted - earlier >= 3_600_000, "{earlier} {noted}");
    let just_now = newest + 60_000;
    date(catalog, &used.digest, just_now).await?;
    catalog.note_use(std::slice::from_ref(&used.digest), Duration::ZERO).await?;
    assert_eq!(used_at(catalog, &used.digest).await?, just_now, "a use is noted once in a while");
    catalog.date_undated().await?;
    assert!(used_at(catalog, &undated.digest).await? >= noted);

    for _ in 0..2 {
        assert!(catalog.is_due("gc chore", HOUR).await?, "it was never done");
    }
    catalog.end_chore("gc chore").await?;
    assert!(!catalog.is_due("gc chore", HOUR).await?);
    assert!(catalog.is_due("gc chore", Duration::ZERO).await?);
    assert!(catalog.is_due("gc another chore", HOUR).await?);
    catalog.end_chore("gc chore").await?;

    let owners = ["gc one", "gc other"].map(|id| Owner { id: id.into(), address: String::new() });
    let Claim::Granted(lease) = catalog.claim(&Work::Collection, &owners[0], HOUR).await? else { panic!("it is free") };
    assert!(matches!(catalog.claim(&Work::Collection, &owners[1], HOUR).await?, Claim::Held { .. }));
    catalog.release(&lease).await?;
    assert!(catalog.recorded_bytes() > used.size);
    Ok(())
}

async fn add_now(catalog: &Catalog) -> Result<Digest, CatalogError> {
    Ok(catalog.add_blob(&blob("gc newest"), &[]).await?.digest)
}

/// One evicts a digest and another stores it, again and again: a row's key is never one that is to be deleted.
pub(super) async fn a_rows_key_is_never_deleted([one, other]: [&Catalog; 2]) -> Result<(), CatalogError> {
    for round in 0..100 {
        let row = BlobRow { key: format!("gc race {round}"), ..blob("gc race") };
        let candidate = Candidate { digest: row.digest.clone(), used_at: i64::MAX };
        let (evicted, standing) = tokio::join!(one.evict(&candidate, Duration::ZERO), other.add_blob(&row, &[]));
        assert!(matches!(evicted?, Eviction::Evicted(_) | Eviction::Newer));
        let standing = standing?;
        if let Some(now) = one.blob(&row.digest).await? {
            assert_eq!(now, standing);
            let due = one.due_deletions(1000).await?;
            assert!(due.iter().all(|deletion| deletion.key != now.key), "round {round}: {now:?} is to be deleted");
        }
    }
    Ok(())
}
