//! The eStargz format: TOC, footer, reader, writer, verify. Sync, std::io only.
