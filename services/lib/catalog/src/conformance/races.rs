//! Many callers at once.

use std::collections::HashSet;

use api::Digest;
use tokio::task::JoinSet;

use super::{blob, digest, manifest, repository, twins};
use crate::{BlobRow, Catalog, CatalogError, TwinState};

/// Callers at once; more than there are connections.
const CALLERS: usize = 100;

/// A hundred callers on two catalogs record the same blob, conversion and view, each with something of its own: all get the same
/// answer, it is what one of them brought, and it is what stands.
pub(super) async fn one_winner_each(catalogs: [&Catalog; 2]) -> Result<(), CatalogError> {
    let catalog = catalogs[0];
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        callers.spawn(race(catalogs[n % 2].clone(), n));
    }
    let mut answers = HashSet::new();
    while let Some(answer) = callers.join_next().await {
        answers.insert(answer.expect("no caller panics")?);
    }
    assert_eq!(answers.len(), 1, "callers got different answers: {answers:?}");
    let (blob_key, twin_key, view) = answers.into_iter().next().expect("there is one answer");
    assert_eq!(catalog.blob(&digest("race blob")).await?.map(|row| row.key), Some(blob_key.clone()));
    assert!((0..CALLERS).any(|n| format!("blob of {n}") == blob_key));
    assert!((0..CALLERS).any(|n| format!("twin of {n}") == twin_key));
    assert_eq!(catalog.converted(&digest("race view source")).await?, Some(view.clone()));
    let stored = catalog.manifest(&view).await?;
    assert!(stored.is_some_and(|row| (0..CALLERS).any(|n| row == manifest(&format!("view of {n}")))));
    let mut recorded = 0;
    for n in 0..CALLERS {
        recorded += usize::from(catalog.manifest(&digest(&format!("view of {n}"))).await?.is_some());
    }
    assert_eq!(recorded, 1, "callers that lost left manifests");
    Ok(())
}

/// Returns the keys and the view that caller `n` was told stand.
async fn race(catalog: Catalog, n: usize) -> Result<(String, String, Digest), CatalogError> {
    let home = repository(&format!("race/{n}"));
    let row = BlobRow { key: format!("blob of {n}"), ..blob("race blob") };
    let standing = catalog.add_blob(&row, &[&home]).await?;

    let source = digest("race source");
    catalog.begin_conversion(&source, "p-race", &home).await?;
    let (key, toc_key) = (format!("twin of {n}"), format!("toc of {n}"));
    let made = twins::twin("race");
    let state = catalog.finish_conversion(&source, "p-race", &made, &key, &toc_key).await?;
    let TwinState::Ready { key: twin_key, toc_key, .. } = state else { panic!("the conversion is {state:?}") };
    assert_eq!(twin_key.replace("twin", "toc"), toc_key, "the keys come from two callers");

    let view = manifest(&format!("view of {n}"));
    let config = blob(&format!("config of {n}"));
    let view = catalog.commit_converted(&digest("race view source"), "p-race", &view, Some(&config), &[]).await?;
    assert_eq!(catalog.converted(&digest("race view source")).await?, Some(view.clone()), "a read missed a commit");
    Ok((standing.key, twin_key, view))
}
