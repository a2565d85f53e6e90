//! What `api/proto` says, as Rust.

#![expect(
    unreachable_pub,
    clippy::clone_on_ref_ptr,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

pub(crate) mod containerd {
    pub(crate) mod types {
        tonic::include_proto!("containerd.types");
    }
    pub(crate) mod services {
        pub(crate) mod content {
            pub(crate) mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        pub(crate) mod diff {
            pub(crate) mod v1 {
                tonic::include_proto!("containerd.services.diff.v1");
            }
        }
        pub(crate) mod images {
            pub(crate) mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        pub(crate) mod leases {
            pub(crate) mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        pub(crate) mod snapshots {
            pub(crate) mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
    }
}

pub(crate) use containerd::services::{content, diff, images, leases, snapshots};
pub(crate) use containerd::types;
