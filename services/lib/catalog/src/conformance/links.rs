//! Who may read what.

use api::Repository;

use super::{blob, digest, manifest, repository, twins};
use crate::{Catalog, CatalogError, Link, LinkState};

/// A link holds for its repository and digest only.
pub(super) async fn own_links(catalog: &Catalog) -> Result<(), CatalogError> {
    let (a, b) = (repository("link/a"), repository("link/b"));
    catalog.link(&a, &digest("linked")).await?;
    catalog.link(&a, &digest("linked")).await?;
    assert_eq!(catalog.is_linked(&a, &digest("linked")).await?, LinkState::Linked);
    assert_eq!(catalog.is_linked(&b, &digest("linked")).await?, LinkState::None);
    assert_eq!(catalog.is_linked(&a, &digest("not linked")).await?, LinkState::None);
    let link = catalog.link_of(&b, &digest("linked")).await?;
    assert_eq!(link, Link { state: LinkState::None, decided_by: digest("linked") });
    Ok(())
}

/// An upstream is linked by its own repositories, and by no other whose name looks alike.
pub(super) async fn links_of_an_upstream(catalog: &Catalog) -> Result<(), CatalogError> {
    let asked = digest("linked in an upstream");
    for name in ["docker.ioa/x", "docker.i/x", "docker-io/x", "docker.io-mirror/x", "docker.io0/x", "dockerio/x"] {
        let look_alike = Repository::parse(name).expect("the name is valid");
        catalog.link(&look_alike, &asked).await?;
        assert!(!catalog.is_linked_in_upstream("docker.io", &asked).await?, "{name} counts");
    }
    for name in ["library/alpine", "0-team/x", "zz/x"] {
        let asked = digest(name);
        catalog.link(&repository(name), &asked).await?;
        assert!(catalog.is_linked_in_upstream("docker.io", &asked).await?, "{name} does not count");
        assert!(!catalog.is_linked_in_upstream("docker", &asked).await?);
    }
    Ok(())
}

/// What a manifest names is named in the repositories linked to that manifest, and in no other.
pub(super) async fn named_by_a_linked_manifest(catalog: &Catalog) -> Result<(), CatalogError> {
    let (a, b) = (repository("named/a"), repository("named/b"));
    let layer = digest("named layer");
    let image = manifest("named image");
    catalog.add_manifest(&image, None, std::slice::from_ref(&layer), None).await?;
    // Known, but linked nowhere: bytes alone give no right.
    assert_eq!(catalog.is_linked(&a, &layer).await?, LinkState::None);
    catalog.link(&a, &image.digest).await?;
    assert_eq!(catalog.link_of(&a, &layer).await?, Link { state: LinkState::Named, decided_by: layer.clone() });
    assert_eq!(catalog.is_linked(&b, &layer).await?, LinkState::None);

    // One step only: what a named manifest names is not named before that manifest is linked itself.
    let index = manifest("named index");
    catalog.add_manifest(&index, Some(&b), std::slice::from_ref(&image.digest), None).await?;
    assert_eq!(catalog.is_linked(&b, &image.digest).await?, LinkState::Named);
    assert_eq!(catalog.is_linked(&b, &layer).await?, LinkState::None);
    catalog.link(&b, &layer).await?;
    assert_eq!(catalog.is_linked(&b, &layer).await?, LinkState::Linked);
    Ok(())
}

/// Twins and TOCs are linked as far as the source they were made from, the best one where there are several.
pub(super) async fn twins_inherit(catalog: &Catalog) -> Result<(), CatalogError> {
    let (a, b, c) = (repository("inherit/a"), repository("inherit/b"), repository("inherit/c"));
    let (first, second) = (digest("inherit source 1"), digest("inherit source 2"));
    // Two sources with one twin: the same tar, compressed differently.
    let twin = twins::twin("inherit twin");
    for source in [&first, &second] {
        catalog.begin_conversion(source, "p-inherit", &a).await?;
        catalog.finish_conversion(source, "p-inherit", &twin, "twin key", "toc key").await?;
    }
    catalog.link(&a, &first).await?;
    let image = manifest("inherit image");
    catalog.add_manifest(&image, Some(&b), std::slice::from_ref(&second), None).await?;
    for made in [&twin.digest, &twin.toc_digest] {
        assert_eq!(catalog.link_of(&a, made).await?, Link { state: LinkState::Linked, decided_by: first.clone() });
        assert_eq!(catalog.link_of(&b, made).await?, Link { state: LinkState::Named, decided_by: second.clone() });
        assert_eq!(catalog.link_of(&c, made).await?, Link { state: LinkState::None, decided_by: made.clone() });
    }
    catalog.link(&b, &second).await?;
    assert_eq!(catalog.is_linked(&b, &twin.toc_digest).await?, LinkState::Linked);
    Ok(())
}

/// Converted manifests and configs are linked as far as their source manifest; children of a converted manifest
/// gain nothing from it.
pub(super) async fn views_inherit(catalog: &Catalog) -> Result<(), CatalogError> {
    let (a, b) = (repository("view/a"), repository("view/b"));
    let (source, index) = (manifest("view source"), manifest("view index"));
    let (converted, config) = (manifest("view converted"), blob("view config"));
    catalog.add_manifest(&source, Some(&a), &[], None).await?;
    catalog.add_manifest(&index, Some(&b), std::slice::from_ref(&source.digest), None).await?;
    let children = [config.digest.clone(), digest("view twin")];
    catalog.commit_converted(&source.digest, "p", &converted, Some(&config), &children).await?;
    for made in [&converted.digest, &config.digest] {
        let link = catalog.link_of(&a, made).await?;
        assert_eq!(link, Link { state: LinkState::Linked, decided_by: source.digest.clone() });
        assert_eq!(catalog.is_linked(&b, made).await?, LinkState::Named);
        assert_eq!(catalog.is_linked(&repository("view/c"), made).await?, LinkState::None);
        assert_eq!(catalog.source_of_converted(made).await?, Some(source.digest.clone()));
    }
    assert_eq!(catalog.is_linked(&a, &digest("view twin")).await?, LinkState::None);
    assert_eq!(catalog.source_of_converted(&source.digest).await?, None);
    Ok(())
}
