//! What a [`Catalog`] on any database must do, as tests to run on an empty one; each of the three below once.
//!
//! Each function panics at the first thing that is wrong and hands on errors of the database.

mod abandoned;
mod gc;
mod leases;
mod links;
mod lost;
mod races;
mod rebuild;
mod twins;
mod views;
mod watches;

use api::{Digest, MediaType, Repository, RepositoryName, Tag};

#[cfg(test)]
pub(crate) use twins::twin;

use crate::{BlobRow, Catalog, CatalogError, FillRow, ManifestRow, TagRow};

/// Runs the tests that need one catalog.
pub async fn conformance(catalog: &Catalog) -> Result<(), CatalogError> {
    the_first_blob_wins(catalog).await?;
    manifests_come_back(catalog).await?;
    tags_move_forward(catalog).await?;
    fills_end(catalog).await?;
    profiles_keep_their_meaning(catalog).await?;
    sizes_have_a_bound(catalog).await?;
    links::own_links(catalog).await?;
    links::links_of_an_upstream(catalog).await?;
    links::named_by_a_linked_manifest(catalog).await?;
    links::twins_inherit(catalog).await?;
    links::views_inherit(catalog).await?;
    views::what_names_a_digest_is_found(catalog).await?;
    twins::a_conversion_ends_once(catalog).await?;
    twins::a_refusal_is_final(catalog).await?;
    twins::unfinished_conversions_are_listed(catalog).await?;
    twins::many_twins_at_once(catalog).await?;
    twins::an_own_twin_shares_its_source(catalog).await?;
    views::the_first_view_wins(catalog).await?;
    views::a_lost_view_leaves_nothing(catalog).await?;
    lost::a_lost_blob_is_recorded_anew(catalog).await?;
    lost::a_lost_manifest_keeps_its_place(catalog).await?;
    lost::a_lost_twin_is_made_again(catalog).await?;
    lost::a_lost_twin_has_the_source_of_who_asks(catalog).await?;
    rebuild::marks_stay_until_they_are_removed(catalog).await?;
    rebuild::a_catalog_has_one_tie(catalog).await?;
    rebuild::what_is_recorded_is_read_page_by_page(catalog).await?;
    rebuild::twins_are_restored(catalog).await?;
    rebuild::views_are_restored(catalog).await?;
    leases::leases_run_out(catalog).await?;
    leases::leases_are_apart(catalog).await?;
    leases::only_the_holder_commits(catalog).await?;
    leases::abandoned_work_is_listed(catalog).await?;
    leases::old_leases_are_swept(catalog).await?;
    abandoned::a_dead_owners_conversion_rests_for_a_while(catalog).await?;
    abandoned::conversions_come_page_by_page(catalog).await?;
    gc::the_longest_unused_come_first(catalog).await?;
    gc::a_unit_goes_together(catalog).await?;
    gc::what_is_needed_stays(catalog).await?;
    gc::only_dead_keys_are_deleted(catalog).await?;
    gc::moments_are_noted(catalog).await?;
    watches::postponing_wakes_who_waits(catalog, catalog).await?;
    gc::a_large_unit_goes_together(catalog).await?;
    watches::ends_wake_who_waits(catalog, catalog).await
}

/// Runs the tests with many callers on two catalogs, which are one database.
pub async fn races(one: &Catalog, other: &Catalog) -> Result<(), CatalogError> {
    races::one_winner_each([one, other]).await?;
    leases::one_of_many_gets_the_work([one, other]).await?;
    gc::a_rows_key_is_never_deleted([one, other]).await
}

/// Runs the tests of watches with two catalogs, which are one database that carries notes between them.
pub async fn watches(one: &Catalog, other: &Catalog) -> Result<(), CatalogError> {
    watches::postponing_wakes_who_waits(one, other).await?;
    watches::ends_wake_who_waits(one, other).await
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn repository(name: &str) -> Repository {
    RepositoryName::parse(name).and_then(|name| Repository::new("docker.io", name)).expect("the name is valid")
}

fn tag(name: &str) -> Tag {
    Tag::parse(name).expect("the tag is valid")
}

fn blob(name: &str) -> BlobRow {
    BlobRow { digest: digest(name), size: 1000, key: format!("key of {name}") }
}

fn manifest(name: &str) -> ManifestRow {
    ManifestRow { digest: digest(name), media_type: MediaType::OciManifest, size: 500, key: format!("key of {name}") }
}

/// The first row of a digest stands and is what every later caller gets; the later caller's links count.
pub async fn the_first_blob_wins(catalog: &Catalog) -> Result<(), CatalogError> {
    let first = blob("blob");
    let second = BlobRow { key: "another".into(), ..first.clone() };
    let (a, b) = (repository("blob/a"), repository("blob/b"));
    assert_eq!(catalog.blob(&first.digest).await?, None);
    assert_eq!(catalog.add_blob(&first, &[&a]).await?, first);
    assert_eq!(catalog.add_blob(&second, &[&a, &b]).await?, first);
    assert_eq!(catalog.blob(&first.digest).await?, Some(first.clone()));
    for repository in [&a, &b] {
        assert_eq!(catalog.is_linked(repository, &first.digest).await?, crate::LinkState::Linked);
    }
    let largest = BlobRow { digest: Digest::from_sha512(&[1; 64]), size: i64::MAX as u64, key: "k".into() };
    catalog.add_blob(&largest, &[]).await?;
    assert_eq!(catalog.blob(&largest.digest).await?, Some(largest.clone()));
    // All sizes together have the same bound as each.
    catalog.lose_blob(&largest.digest, &largest.key).await?;
    Ok(())
}

/// A manifest is found as one and as a blob, with the type and key of its first row; thousands of children do.
pub async fn manifests_come_back(catalog: &Catalog) -> Result<(), CatalogError> {
    let row = ManifestRow { media_type: MediaType::parse("application/x.own+json"), ..manifest("manifest") };
    let children: Vec<Digest> = (0..api::manifest::MAX_CHILDREN).map(|n| digest(&format!("child {n}"))).collect();
    let home = repository("manifest/home");
    assert_eq!(catalog.manifest(&row.digest).await?, None);
    assert_eq!(catalog.add_manifest(&row, Some(&home), &children, Some(&digest("subject"))).await?, row);
    assert_eq!(catalog.manifest(&row.digest).await?, Some(row.clone()));
    assert_eq!(catalog.blob(&row.digest).await?.map(|blob| blob.key), Some(row.key.clone()));
    let last = children.last().expect("there are children");
    assert_eq!(catalog.is_linked(&home, last).await?, crate::LinkState::Named);
    assert_eq!(catalog.is_linked(&home, &digest("subject")).await?, crate::LinkState::None);

    let again = ManifestRow { key: "another".into(), ..row.clone() };
    assert_eq!(catalog.add_manifest(&again, None, &children, None).await?, row);
    // Bytes that were stored as a plain blob can turn out to be a manifest.
    let plain = blob("blob first");
    catalog.add_blob(&plain, &[]).await?;
    assert_eq!(catalog.manifest(&plain.digest).await?, None);
    let late = ManifestRow { digest: plain.digest.clone(), size: plain.size, ..manifest("blob first, again") };
    assert_eq!(catalog.add_manifest(&late, None, &[], None).await?.key, plain.key);
    assert!(catalog.manifest(&plain.digest).await?.is_some());
    Ok(())
}

/// A tag never goes back to an older answer, and checks and answers touch only tags that are recorded.
pub async fn tags_move_forward(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, latest) = (repository("tag/home"), tag("latest"));
    let (old, new) = (digest("old target"), digest("new target"));
    catalog.tag_checked(&home, &latest, 5).await?;
    catalog.tag_answered_original(&home, &latest, 5).await?;
    assert_eq!(catalog.tag(&home, &latest).await?, None);

    catalog.set_tag(&home, &latest, &old, 10).await?;
    let mut row = TagRow { digest: old.clone(), checked_at: 10, original_answered_at: None };
    assert_eq!(catalog.tag(&home, &latest).await?, Some(row.clone()));
    catalog.tag_checked(&home, &latest, 20).await?;
    catalog.tag_checked(&home, &latest, 15).await?;
    catalog.tag_answered_original(&home, &latest, 30).await?;
    catalog.tag_answered_original(&home, &latest, 25).await?;
    row = TagRow { checked_at: 20, original_answered_at: Some(30), ..row };
    assert_eq!(catalog.tag(&home, &latest).await?, Some(row.clone()));

    catalog.set_tag(&home, &latest, &new, 40).await?;
    catalog.set_tag(&home, &latest, &old, 39).await?;
    row = TagRow { digest: new.clone(), checked_at: 40, ..row };
    assert_eq!(catalog.tag(&home, &latest).await?, Some(row));

    for name in ["v2", "V10", "_a", "v1"] {
        catalog.set_tag(&home, &tag(name), &old, 1).await?;
    }
    catalog.set_tag(&repository("tag/other"), &tag("foreign"), &old, 1).await?;
    assert_eq!(catalog.tags(&home).await?, ["V10", "_a", "latest", "v1", "v2"].map(tag));
    assert!(catalog.tags(&repository("tag/none")).await?.is_empty());

    catalog.forget_tag(&home, &latest, 39).await?;
    assert!(catalog.tag(&home, &latest).await?.is_some(), "checked later than that");
    catalog.forget_tag(&home, &latest, 40).await?;
    assert_eq!(catalog.tag(&home, &latest).await?, None);
    assert!(catalog.tag(&home, &tag("v1")).await?.is_some());
    Ok(())
}

/// A fill is listed until it ends or its blob is recorded, apart from that of the same blob from another upstream.
pub async fn fills_end(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, other) = (repository("fill/home"), repository("fill/other"));
    let elsewhere = Repository::parse("ghcr.io/fill/home").expect("a repository");
    let mut rows: Vec<FillRow> =
        (0..3).map(|n| FillRow { digest: digest(&format!("fill {n}")), repository: home.clone(), size: n }).collect();
    rows.sort_by_key(|row| row.digest.to_string());
    for row in &rows {
        assert!(!catalog.begin_fill(&row.digest, &row.repository, row.size).await?);
    }
    assert_eq!(catalog.unfinished_fills().await?, rows);
    rows[0].repository = other.clone();
    assert!(catalog.begin_fill(&rows[0].digest, &other, rows[0].size).await?);
    assert_eq!(catalog.unfinished_fills().await?, rows);
    for row in &rows {
        assert!(!catalog.begin_fill(&row.digest, &elsewhere, 7).await?, "the other upstream's");
    }
    for _ in 0..2 {
        catalog.end_fill(&rows[1].digest, home.upstream()).await?;
    }
    let stored = BlobRow { digest: rows[2].digest.clone(), size: rows[2].size, key: "fill".into() };
    catalog.add_blob(&stored, &[&home]).await?;
    let (of_elsewhere, left): (Vec<_>, Vec<_>) =
        catalog.unfinished_fills().await?.into_iter().partition(|row| row.repository == elsewhere);
    assert_eq!(left, rows[..1]);
    assert!(of_elsewhere.iter().map(|row| &row.digest).eq(rows.iter().map(|row| &row.digest)), "{of_elsewhere:?}");
    catalog.end_fill(&rows[0].digest, home.upstream()).await?;
    for row in &of_elsewhere {
        catalog.end_fill(&row.digest, elsewhere.upstream()).await?;
    }
    Ok(())
}

/// The first description of a profile stays.
pub async fn profiles_keep_their_meaning(catalog: &Catalog) -> Result<(), CatalogError> {
    assert_eq!(catalog.profile("p1").await?, None);
    catalog.record_profile("p1", "level 6").await?;
    catalog.record_profile("p1", "level 7").await?;
    assert_eq!(catalog.profile("p1").await?.as_deref(), Some("level 6"));
    assert!(!catalog.needed_profiles().await?.contains(&"p1".to_owned()), "nothing was made under it");
    let (source, twin) = (digest("profile source"), twins::twin("profile source"));
    catalog.begin_conversion(&source, "p1", &repository("profile/home")).await?;
    assert!(!catalog.needed_profiles().await?.contains(&"p1".to_owned()), "nothing was made under it yet");
    catalog.finish_conversion(&source, "p1", &twin, "profile key", "profile toc").await?;
    assert!(catalog.needed_profiles().await?.contains(&"p1".to_owned()));
    Ok(())
}

/// A size that a database cannot hold is refused, and nothing is left of the call.
pub async fn sizes_have_a_bound(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("bound/home");
    let row = BlobRow { size: u64::MAX, ..blob("too large") };
    let error = catalog.add_blob(&row, &[&home]).await.expect_err("the size is too large");
    assert!(matches!(error, CatalogError::TooLarge { value: u64::MAX, .. }), "{error:?}");
    assert!(!error.is_transient());
    assert_eq!(catalog.blob(&row.digest).await?, None);
    assert_eq!(catalog.is_linked(&home, &row.digest).await?, crate::LinkState::None);
    Ok(())
}
