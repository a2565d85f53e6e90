//! Bytes that are gone from the store.

use api::Digest;

use super::twins::twin;
use super::{blob, digest, manifest, repository};
use crate::{BlobRow, Catalog, CatalogError, LinkState, TwinState};

/// A lost blob counts as not stored until it is recorded anew; another key than the row's loses nothing.
pub(super) async fn a_lost_blob_is_recorded_anew(catalog: &Catalog) -> Result<(), CatalogError> {
    let (row, home) = (blob("lost blob"), repository("lost/home"));
    let anew = BlobRow { key: "anew".into(), ..row.clone() };
    assert!(!catalog.lose_blob(&row.digest, &row.key).await?);
    catalog.add_blob(&row, &[&home]).await?;
    assert!(!catalog.lose_blob(&row.digest, "another").await?);
    assert!(!catalog.is_lost(&row.digest).await?);
    assert_eq!(catalog.blob(&row.digest).await?, Some(row.clone()));
    assert!(catalog.lose_blob(&row.digest, &row.key).await?);
    assert!(!catalog.lose_blob(&row.digest, &row.key).await?, "lost once");
    assert_eq!(catalog.blob(&row.digest).await?, None);
    assert!(catalog.is_lost(&row.digest).await?);
    assert!(!catalog.is_lost(&digest("never stored")).await?);
    assert_eq!(catalog.is_linked(&home, &row.digest).await?, LinkState::Linked);
    assert_eq!(catalog.add_blob(&anew, &[]).await?, anew);
    assert!(!catalog.is_lost(&row.digest).await?);
    assert_eq!(catalog.add_blob(&row, &[]).await?, anew);
    Ok(())
}

/// A lost manifest goes on naming its children; a lost converted one stays the answer and is brought back by the same commit.
pub(super) async fn a_lost_manifest_keeps_its_place(catalog: &Catalog) -> Result<(), CatalogError> {
    let (source, home) = (manifest("lost manifest"), repository("lost/manifests"));
    let (layer, config, form) = (digest("its layer"), blob("its config"), manifest("its form"));
    catalog.add_manifest(&source, Some(&home), std::slice::from_ref(&layer), None).await?;
    assert!(catalog.lose_blob(&source.digest, &source.key).await?);
    assert_eq!(catalog.manifest(&source.digest).await?, None);
    assert_eq!(catalog.is_linked(&home, &layer).await?, LinkState::Named);
    assert_eq!(catalog.add_manifest(&source, None, &[layer], None).await?, source);

    let commit = catalog.commit_converted(&source.digest, "p", &form, Some(&config), &[]);
    assert_eq!(commit.await?, form.digest);
    assert!(catalog.lose_blob(&form.digest, &form.key).await?);
    assert!(catalog.lose_blob(&config.digest, &config.key).await?);
    assert_eq!(catalog.converted(&source.digest).await?, Some(form.digest.clone()));
    assert_eq!(catalog.converted_profile(&source.digest).await?.as_deref(), Some("p"));
    let commit = catalog.commit_converted(&source.digest, "p", &form, Some(&config), &[]);
    assert_eq!(commit.await?, form.digest);
    assert_eq!(catalog.manifest(&form.digest).await?, Some(form));
    assert_eq!(catalog.blob(&config.digest).await?, Some(config));
    Ok(())
}

/// A twin whose bytes or TOC are lost goes back to converting and ends with the same twin only; what is left of it stays.
pub(super) async fn a_lost_twin_is_made_again(catalog: &Catalog) -> Result<(), CatalogError> {
    let (source, home, made) = (digest("lost source layer"), repository("lost/twins"), twin("lost twin"));
    catalog.begin_conversion(&source, "p-lost", &home).await?;
    catalog.attempt_conversion(&source, "p-lost").await?;
    catalog.finish_conversion(&source, "p-lost", &made, "k", "t").await?;
    assert_eq!(catalog.lost_twin(&made.digest, &home).await?, None);
    for (lost, key) in [(&made.digest, "k"), (&made.toc_digest, "t")] {
        assert!(catalog.lose_blob(lost, key).await?);
        let expected = Some((source.clone(), "p-lost".to_owned()));
        assert_eq!(catalog.lost_twin(&made.digest, &home).await?, expected);
        assert_eq!(catalog.lost_twin(&made.toc_digest, &home).await?, expected);
        assert_eq!(catalog.source_of_twin(&made.digest).await?, Some(source.clone()));
        let state = catalog.begin_conversion(&source, "p-lost", &home).await?;
        assert_eq!(state, TwinState::Converting { attempts: 0 }, "the attempts at what was made count no longer");
        let other = catalog.finish_conversion(&source, "p-lost", &twin("another"), "x", "y").await?;
        assert!(matches!(other, TwinState::Converting { .. }), "{other:?}");
        let reason = api::UnconvertibleReason::Limit;
        let refused = catalog.refuse_conversion(&source, "p-lost", reason, "no time").await?;
        assert!(matches!(refused, TwinState::Converting { .. }), "{refused:?}");
        let again = catalog.finish_conversion(&source, "p-lost", &made, "k", "t").await?;
        assert_eq!(again, TwinState::Ready { twin: made.clone(), key: "k".into(), toc_key: "t".into() });
    }
    Ok(())
}

/// A lost twin of several sources is made again from the one that the asking repository can be filled from.
pub(super) async fn a_lost_twin_has_the_source_of_who_asks(catalog: &Catalog) -> Result<(), CatalogError> {
    let repositories = ["lost/linked", "lost/named", "lost/both", "lost/other"].map(repository);
    let [linked, named, both, other] = &repositories;
    let mut sources = ["a", "b", "c"].map(|name| digest(&format!("lost, one of several {name}")));
    sources.sort_by_key(Digest::to_string);
    let [first, second, third] = &sources;
    let made = twin("lost, of several");
    let home = repository("lost/a-home");
    for (source, home) in sources.iter().zip([linked, &home, linked]) {
        catalog.begin_conversion(source, "p-several", home).await?;
        catalog.finish_conversion(source, "p-several", &made, "k", "t").await?;
    }
    for repository in &repositories {
        // As who reads the twin is, which says nothing of its sources.
        catalog.link(repository, &made.digest).await?;
    }
    catalog.link(linked, third).await?;
    catalog.link(both, third).await?;
    for (name, repository, layer) in [("names its second", named, second), ("names its first", both, first)] {
        let image = manifest(&format!("lost, of several, {name}"));
        catalog.add_manifest(&image, Some(repository), std::slice::from_ref(layer), None).await?;
    }
    assert!(catalog.lose_blob(&made.digest, "k").await?);
    for (repository, source) in [(linked, third), (named, second), (both, third), (other, first)] {
        for lost in [&made.digest, &made.toc_digest] {
            let found = catalog.lost_twin(lost, repository).await?;
            assert_eq!(found, Some((source.clone(), "p-several".to_owned())), "{repository}");
        }
    }
    for lost in [&made.digest, &made.toc_digest] {
        assert_eq!(catalog.homes_of_lost_twin(lost).await?, [home.clone(), linked.clone()]);
    }
    assert!(catalog.homes_of_lost_twin(first).await?.is_empty());
    Ok(())
}
