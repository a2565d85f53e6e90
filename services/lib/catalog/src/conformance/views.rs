//! Converted manifests.

use super::{blob, digest, manifest};
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
