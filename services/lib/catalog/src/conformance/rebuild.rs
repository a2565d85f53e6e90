//! Rows read out page by page, and restored after the database was lost.

use api::{Digest, MediaType, Repository, UnconvertibleReason};

use super::twins::twin;
use super::{blob, digest, manifest, repository, tag};
use crate::{
    BlobRow, Catalog, CatalogError, ConvertedRecord, LinkState, Mark, Restored, Tie, TwinOutcome, TwinRecord, TwinState,
};

/// A mark is set or not.
pub(super) async fn marks_stay_until_they_are_removed(catalog: &Catalog) -> Result<(), CatalogError> {
    assert!(!catalog.is_marked(Mark::Rebuilding).await?);
    for _ in 0..2 {
        catalog.mark(Mark::Rebuilding).await?;
        assert!(catalog.is_marked(Mark::Rebuilding).await?);
    }
    assert!(!catalog.is_marked(Mark::Noted).await?, "another mark is set");
    for _ in 0..2 {
        catalog.unmark(Mark::Rebuilding).await?;
        assert!(!catalog.is_marked(Mark::Rebuilding).await?);
    }
    Ok(())
}

/// The first proposal stands until a tie is confirmed.
pub(super) async fn a_catalog_has_one_tie(catalog: &Catalog) -> Result<(), CatalogError> {
    assert_eq!(catalog.tie().await?, None);
    let tie = |id: &str, is_confirmed| Some(Tie { id: id.to_owned(), is_confirmed });
    for id in ["first", "second"] {
        catalog.propose_tie(id).await?;
        assert_eq!(catalog.tie().await?, tie("first", false));
    }
    for id in ["first", "second"] {
        catalog.confirm_tie(id).await?;
        catalog.propose_tie("third").await?;
        assert_eq!(catalog.tie().await?, tie(id, true));
    }
    Ok(())
}

/// Pages have everything once, in order; and of conversions what ended.
pub(super) async fn what_is_recorded_is_read_page_by_page(catalog: &Catalog) -> Result<(), CatalogError> {
    let homes = ["pages/a", "pages/b", "pages-c"].map(repository);
    let mut links: Vec<(Repository, Digest)> =
        homes.iter().flat_map(|home| (0..5).map(|n| (home.clone(), digest(&format!("page link {n}"))))).collect();
    links.sort_by_key(|(home, digest)| (home.to_string(), digest.to_string()));
    catalog.restore_links(&links).await?;
    catalog.restore_links(&links).await?;
    let mut found: Vec<(Repository, Digest)> = Vec::new();
    loop {
        let page = catalog.links_after(found.last(), 4).await?;
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    found.retain(|(home, _)| homes.contains(home));
    assert_eq!(found, links);

    for name in ["b", "a"] {
        catalog.set_tag(&homes[0], &tag(name), &digest("page target"), 1).await?;
    }
    let tags = catalog.tags_after(None, 1000).await?;
    let [a, b] = ["a", "b"].map(|name| (homes[0].clone(), tag(name)));
    assert!(tags.windows(2).any(|pair| pair == [a.clone(), b.clone()]), "{tags:?}");
    assert_eq!(catalog.tags_after(Some(&a), 1).await?, [b]);

    let row = manifest("page manifest");
    catalog.add_manifest(&row, None, &[], None).await?;
    let all = catalog.manifests_after(None, 1000).await?;
    assert!(all.contains(&(row.digest.clone(), row.media_type.clone())));
    assert!(!catalog.manifests_after(Some(&row.digest), 1000).await?.iter().any(|(found, _)| *found == row.digest));
    catalog.record_profile("page profile", "its text").await?;
    assert!(catalog.profiles().await?.contains(&("page profile".to_owned(), "its text".to_owned())));
    Ok(())
}

/// What came of a conversion is read as it is restored; a twin of which bytes are not there is to be made again.
pub(super) async fn twins_are_restored(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, made) = (repository("restored/home"), twin("restored twin"));
    let record = |name: &str, outcome| TwinRecord {
        source: digest(name),
        profile: "p-restored".to_owned(),
        repository: home.clone(),
        outcome,
    };
    let whole = record("restored source", TwinOutcome::Twin(made.clone()));
    let keyed = |digest: &Digest, size, key: &str| BlobRow { digest: digest.clone(), size, key: key.to_owned() };
    catalog.add_blob(&keyed(&made.digest, made.size, "twin key"), &[]).await?;
    assert_eq!(catalog.restore_twin(&whole).await?, Restored::Lost, "without its TOC");
    assert!(matches!(state(catalog, &whole).await?, TwinState::Converting { attempts: 0 }));
    assert_eq!(catalog.twin_record(&whole.source, "p-restored").await?, Some(whole.clone()));
    assert!(catalog.is_lost(&made.toc_digest).await? && !catalog.is_lost(&made.digest).await?);
    catalog.link(&home, &whole.source).await?;
    let lost = catalog.lost_twin(&made.toc_digest, &home).await?;
    assert_eq!(lost, Some((whole.source.clone(), "p-restored".to_owned())));

    catalog.add_blob(&keyed(&made.toc_digest, made.toc_size, "toc key"), &[]).await?;
    for _ in 0..2 {
        assert_eq!(catalog.restore_twin(&whole).await?, Restored::Whole);
        let ready = TwinState::Ready { twin: made.clone(), key: "twin key".into(), toc_key: "toc key".into() };
        assert_eq!(state(catalog, &whole).await?, ready);
    }
    assert_eq!(catalog.twin_record(&whole.source, "p-restored").await?, Some(whole.clone()));

    let refusal = TwinOutcome::Unconvertible { reason: UnconvertibleReason::Sparse, detail: "a file".into() };
    let refused = record("restored refusal", refusal);
    assert_eq!(catalog.restore_twin(&refused).await?, Restored::Whole);
    assert_eq!(catalog.twin_record(&refused.source, "p-restored").await?, Some(refused.clone()));
    catalog.begin_conversion(&digest("only begun"), "p-restored", &home).await?;
    assert_eq!(catalog.twin_record(&digest("only begun"), "p-restored").await?, None);
    let mut ended = catalog.ended_conversions_after(None, 1000).await?;
    ended.retain(|(_, profile)| profile == "p-restored");
    let mut expected = [whole.source, refused.source].map(|source| (source, "p-restored".to_owned()));
    expected.sort_by_key(|(source, _)| source.to_string());
    assert_eq!(ended, expected);
    let rest = catalog.ended_conversions_after(Some(&expected[0]), 1000).await?;
    assert!(rest.contains(&expected[1]) && !rest.contains(&expected[0]), "{rest:?}");
    assert_eq!(catalog.ended_conversions_after(None, 1).await?.len(), 1);
    Ok(())
}

/// A converted form is read as it is restored, with its bytes or without; the first of a source stands.
pub(super) async fn views_are_restored(catalog: &Catalog) -> Result<(), CatalogError> {
    let (form, config, home) = (manifest("restored form"), blob("restored config"), repository("restored/views"));
    let record = ConvertedRecord {
        source: digest("restored view's source"),
        profile: "p1".into(),
        manifest: form.digest.clone(),
        media_type: form.media_type.clone(),
        size: form.size,
        config: Some((config.digest.clone(), config.size)),
    };
    for _ in 0..2 {
        assert_eq!(catalog.restore_converted(&record).await?, form.digest);
    }
    let other = ConvertedRecord { manifest: digest("another form"), config: None, ..record.clone() };
    assert_eq!(catalog.restore_converted(&other).await?, form.digest);
    assert_eq!(catalog.converted_and_noted(&record.source).await?, Some((form.digest.clone(), true)));
    assert_eq!(catalog.converted_record(&record.source).await?, Some(record.clone()));
    assert_eq!(catalog.manifest(&form.digest).await?, None);
    assert!(catalog.is_lost(&form.digest).await? && catalog.is_lost(&config.digest).await?);
    catalog.link(&home, &record.source).await?;
    assert_eq!(catalog.is_linked(&home, &form.digest).await?, LinkState::Linked);
    // Its bytes come back, and have the size that was recorded.
    assert_eq!(catalog.add_blob(&config, &[]).await?, config);
    assert_eq!(catalog.add_manifest(&form, None, &[], Some(&record.source)).await?, form);

    let source = digest("noted source");
    let index = crate::ManifestRow { media_type: MediaType::OciIndex, ..manifest("noted index") };
    assert_eq!(catalog.converted_and_noted(&source).await?, None);
    catalog.commit_converted(&source, "p2", &index, None, &[]).await?;
    assert_eq!(catalog.converted_and_noted(&source).await?, Some((index.digest.clone(), false)));
    assert!(catalog.unnoted_after(None, 1000).await?.contains(&source));
    assert!(!catalog.unnoted_after(Some(&source), 1000).await?.contains(&source));
    let found = catalog.converted_record(&source).await?.expect("it was committed");
    assert_eq!((found.manifest, found.media_type, found.size), (index.digest.clone(), index.media_type, index.size));
    assert_eq!(found.config, None);
    catalog.converted_is_noted(&source).await?;
    assert_eq!(catalog.converted_and_noted(&source).await?, Some((index.digest, true)));
    assert!(!catalog.unnoted_after(None, 1000).await?.contains(&source));
    Ok(())
}

async fn state(catalog: &Catalog, record: &TwinRecord) -> Result<TwinState, CatalogError> {
    let row = catalog.twin(&record.source, &record.profile).await?;
    Ok(row.expect("the conversion was recorded").state)
}
