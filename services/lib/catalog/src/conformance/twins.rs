//! Conversions of layers.

use api::{Digest, TarTail, Twin, UnconvertibleReason};

use super::{blob, digest, repository};
use crate::{BlobRow, Catalog, CatalogError, TwinRow, TwinState};

/// Returns a twin whose digests all come from `name`.
pub(crate) fn twin(name: &str) -> Twin {
    let of = |part: &str| digest(&format!("{name} {part}"));
    Twin {
        digest: of("twin"),
        size: 1 << 40,
        diff_id: of("diff id"),
        plain_size: 3 << 40,
        toc_digest: of("toc"),
        toc_size: 77,
        source_diff_id: of("source diff id"),
        source_plain_size: 2 << 40,
        tail: TarTail::Zeros(1024),
        implied_dirs: vec![String::new(), "usr/lib ä'\"".into()],
    }
}

fn ready(twin: &Twin, key: &str, toc_key: &str) -> TwinState {
    TwinState::Ready { twin: twin.clone(), key: key.into(), toc_key: toc_key.into() }
}

/// A conversion begins once, ends once, and stays as it ended; profiles are apart.
pub(super) async fn a_conversion_ends_once(catalog: &Catalog) -> Result<(), CatalogError> {
    let (source, home) = (digest("once"), repository("twin/home"));
    let mut made = twin("once");
    made.tail = TarTail::Bytes("00ff".into());
    assert_eq!(catalog.twin(&source, "p-once").await?, None);
    let error = catalog.finish_conversion(&source, "p-once", &made, "k", "t").await.expect_err("nothing was begun");
    assert!(matches!(error, CatalogError::NotBegun { .. }), "{error:?}");
    assert_eq!(catalog.blob(&made.digest).await?, None);

    for _ in 0..2 {
        let state = catalog.begin_conversion(&source, "p-once", &home).await?;
        assert_eq!(state, TwinState::Converting { attempts: 0 }, "it was begun, and no converter started");
    }
    for attempts in 1..3 {
        let state = catalog.attempt_conversion(&source, "p-once").await?;
        assert_eq!(state, TwinState::Converting { attempts });
    }

    let state = catalog.finish_conversion(&source, "p-once", &made, "k", "t").await?;
    assert_eq!(state, ready(&made, "k", "t"));
    let row = TwinRow { source: source.clone(), profile: "p-once".into(), state };
    assert_eq!(catalog.twin(&source, "p-once").await?, Some(row.clone()));
    let stored = BlobRow { digest: made.toc_digest.clone(), size: made.toc_size, key: "t".into() };
    assert_eq!(catalog.blob(&made.toc_digest).await?, Some(stored));
    assert_eq!(catalog.source_of_twin(&made.digest).await?, Some(source.clone()));
    assert_eq!(catalog.source_of_twin(&source).await?, None);

    // Nothing moves it from there, and the loser's blobs get no rows.
    let late = twin("once, late");
    assert_eq!(catalog.finish_conversion(&source, "p-once", &late, "x", "y").await?, row.state);
    assert_eq!(catalog.blob(&late.digest).await?, None);
    let refused = catalog.refuse_conversion(&source, "p-once", UnconvertibleReason::Limit, "late").await?;
    assert_eq!(refused, row.state);
    assert_eq!(catalog.begin_conversion(&source, "p-once", &home).await?, row.state);
    assert_eq!(catalog.attempt_conversion(&source, "p-once").await?, row.state);
    assert_eq!(catalog.twin(&source, "p-once, other").await?, None);

    // Another source with the same twin: the first keys stand.
    let same = digest("once, recompressed");
    catalog.begin_conversion(&same, "p-once", &home).await?;
    assert_eq!(catalog.finish_conversion(&same, "p-once", &made, "k2", "t2").await?, row.state);
    Ok(())
}

/// Every reason comes back, and a refused layer stays refused.
pub(super) async fn a_refusal_is_final(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("twin/home");
    for reason in UnconvertibleReason::ALL {
        let source = digest(&format!("refused {reason}"));
        let error = catalog.refuse_conversion(&source, "p-refuse", reason, "").await.expect_err("nothing was begun");
        assert!(matches!(error, CatalogError::NotBegun { .. }), "{error:?}");
        catalog.begin_conversion(&source, "p-refuse", &home).await?;
        let state = TwinState::Unconvertible { reason, detail: "entry 7: a/b".into() };
        assert_eq!(catalog.refuse_conversion(&source, "p-refuse", reason, "entry 7: a/b").await?, state);
        let late = twin("refused, late");
        assert_eq!(catalog.finish_conversion(&source, "p-refuse", &late, "k", "t").await?, state);
        assert_eq!(catalog.twin(&source, "p-refuse").await?.map(|row| row.state), Some(state));
    }
    assert!(catalog.unfinished_conversions("p-refuse").await?.is_empty());
    Ok(())
}

/// What was begun and has not ended is listed, with the repository that asked first.
pub(super) async fn unfinished_conversions_are_listed(catalog: &Catalog) -> Result<(), CatalogError> {
    let (home, other) = (repository("twin/home"), repository("twin/other"));
    let mut sources: Vec<Digest> = (0..3).map(|n| digest(&format!("unfinished {n}"))).collect();
    sources.sort_by_key(Digest::to_string);
    for source in &sources {
        catalog.begin_conversion(source, "p-unfinished", &home).await?;
        catalog.begin_conversion(source, "p-unfinished", &other).await?;
    }
    catalog.finish_conversion(&sources[1], "p-unfinished", &twin("unfinished"), "k", "t").await?;
    let expected = [(sources[0].clone(), home.clone()), (sources[2].clone(), home.clone())];
    assert_eq!(catalog.unfinished_conversions("p-unfinished").await?, expected);
    assert!(catalog.unfinished_conversions("p-unfinished, other").await?.is_empty());
    Ok(())
}

/// One call answers for more sources than one statement asks for, and leaves out those without a row.
pub(super) async fn many_twins_at_once(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("twin/home");
    let sources: Vec<Digest> = (0..1200).map(|n| digest(&format!("many {n}"))).collect();
    for source in sources.iter().step_by(100) {
        catalog.begin_conversion(source, "p-many", &home).await?;
    }
    let made = twin("many");
    catalog.finish_conversion(&sources[1100], "p-many", &made, "k", "t").await?;
    catalog.begin_conversion(&sources[1], "p-many, other", &home).await?;
    let mut rows = catalog.twins(&sources, "p-many").await?;
    rows.sort_by_key(|row| sources.iter().position(|source| *source == row.source));
    let found: Vec<&Digest> = rows.iter().map(|row| &row.source).collect();
    let expected: Vec<&Digest> = sources.iter().step_by(100).collect();
    assert_eq!(found, expected);
    assert_eq!(rows[11].state, ready(&made, "k", "t"));
    assert!(catalog.twins(&[], "p-many").await?.is_empty());
    Ok(())
}

/// A source that is its own twin keeps its key, and stays readable where it was.
pub(super) async fn an_own_twin_shares_its_source(catalog: &Catalog) -> Result<(), CatalogError> {
    let home = repository("twin/own");
    let source = blob("own");
    catalog.add_blob(&source, &[&home]).await?;
    let made = Twin { digest: source.digest.clone(), size: source.size, ..twin("own") };
    catalog.begin_conversion(&source.digest, "p-own", &home).await?;
    let state = catalog.finish_conversion(&source.digest, "p-own", &made, &source.key, "toc").await?;
    assert_eq!(state, ready(&made, &source.key, "toc"));
    assert_eq!(catalog.source_of_twin(&source.digest).await?, Some(source.digest.clone()));
    assert_eq!(catalog.is_linked(&home, &made.toc_digest).await?, crate::LinkState::Linked);
    assert_eq!(catalog.is_linked(&repository("twin/none"), &source.digest).await?, crate::LinkState::None);

    // Lost or evicted while it was converted: the key that was its key is none, and its TOC is not recorded either.
    let (source, toc) = (blob("own, gone"), twin("own, gone").toc_digest);
    let made = Twin { digest: source.digest.clone(), size: source.size, ..twin("own, gone") };
    catalog.add_blob(&source, &[&home]).await?;
    catalog.begin_conversion(&source.digest, "p-own", &home).await?;
    assert!(catalog.lose_blob(&source.digest, &source.key).await?);
    let state = catalog.finish_conversion(&source.digest, "p-own", &made, &source.key, "toc").await?;
    assert_eq!(state, TwinState::Converting { attempts: 0 });
    assert_eq!((catalog.blob(&source.digest).await?, catalog.blob(&toc).await?), (None, None));
    let again = BlobRow { key: "again".into(), ..source.clone() };
    catalog.add_blob(&again, &[&home]).await?;
    let state = catalog.finish_conversion(&source.digest, "p-own", &made, &source.key, "toc").await?;
    assert_eq!(state, TwinState::Converting { attempts: 0 }, "it is under another key by now");
    let state = catalog.finish_conversion(&source.digest, "p-own", &made, "again", "toc").await?;
    assert_eq!(state, ready(&made, "again", "toc"));
    Ok(())
}
