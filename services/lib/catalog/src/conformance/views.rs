//! Converted manifests.

use super::{blob, digest, manifest, repository};
use crate::{Catalog, CatalogError};

/// The first commit of a source stands, whatever comes later, under whatever profile.
pub(super) async fn the_first_view_wins(catalog: &Catalog) -> Result<(), CatalogError> {
    let source = digest("sticky source");
    let (first, second) = (manifest("sticky 1"), manifest("sticky 2"));
    let (config, layer) = (blob("sticky config"), digest("sticky layer"));
    assert_eq!(catalog.converted(&source).await?, None);
    let children = [config.digest.clone(), layer];
    for _ in 0..2 {
        let winner = catalog.commit_converted(&source, "p1", &first, Some(&config), &children).await?;
        assert_eq!(winner, first.digest);
    }
    assert_eq!(catalog.commit_converted(&source, "p2", &second, None, &[]).await?, first.digest);
    assert_eq!(catalog.converted(&source).await?, Some(first.digest.clone()));
    assert_eq!(catalog.manifest(&first.digest).await?, Some(first.clone()));
    assert_eq!(catalog.blob(&config.digest).await?, Some(config));
    // An index has no config.
    let index = manifest("sticky index");
    let winner = catalog.commit_converted(&digest("sticky source index"), "p1", &index, None, &[first.digest]).await?;
    assert_eq!(winner, index.digest);
    Ok(())
}

/// A commit that lost records neither its manifest nor its config.
pub(super) async fn a_lost_view_leaves_nothing(catalog: &Catalog) -> Result<(), CatalogError> {
    let source = digest("lost source");
    let (winner, loser, config) = (manifest("lost winner"), manifest("lost loser"), blob("lost config"));
    catalog.commit_converted(&source, "p", &winner, None, &[]).await?;
    catalog.commit_converted(&source, "p", &loser, Some(&config), &[digest("lost layer")]).await?;
    assert_eq!(catalog.manifest(&loser.digest).await?, None);
    assert_eq!(catalog.blob(&loser.digest).await?, None);
    assert_eq!(catalog.blob(&config.digest).await?, None);
    assert_eq!(catalog.source_of_converted(&loser.digest).await?, None);
    Ok(())
}

/// The manifests that name a layer are found, but not the converted ones, and not those whose bytes were lost.
pub(super) async fn what_names_a_digest_is_found(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, layer) = (repository("naming/home"), digest("naming layer"));
    let mut named: Vec<_> = (0..3).map(|n| manifest(&format!("naming {n}"))).collect();
    assert_eq!(catalog.manifests_naming(&layer, 10).await?, []);
    for manifest in &named {
        catalog.add_manifest(manifest, Some(&home), &[digest("naming config"), layer.clone()], None).await?;
    }
    let other = manifest("naming another");
    catalog.add_manifest(&other, Some(&home), &[digest("another layer")], None).await?;
    let converted = manifest("naming converted");
    catalog.commit_converted(&named[0].digest, "p", &converted, None, std::slice::from_ref(&layer)).await?;
    named.sort_by_key(|manifest| manifest.digest.to_string());
    let digests = |of: &[crate::ManifestRow]| of.iter().map(|row| row.digest.clone()).collect::<Vec<_>>();
    assert_eq!(catalog.manifests_naming(&layer, 10).await?, digests(&named));
    assert_eq!(catalog.manifests_naming(&layer, 2).await?, digests(&named[..2]));
    catalog.lose_blob(&named[0].digest, &named[0].key).await?;
    assert_eq!(catalog.manifests_naming(&layer, 10).await?, digests(&named[1..]));
    Ok(())
}
