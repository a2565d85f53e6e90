//! [`Clients`]: whom the bytes of twins are asked of.

use std::sync::Arc;

use upstream::{Client, UpstreamError};

use crate::layer::Place;
use crate::layers::{LayerError, Via};
use crate::proxies::Proxies;
use crate::registries::Registries;

/// Whom bytes are asked of.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) registries: Arc<Registries>,
}

impl Clients {
    /// Returns a client of who has a place.
    ///
    /// # Errors
    /// [`LayerError::NoProxy`] or [`LayerError::Registry`].
    pub(crate) fn of(&self, place: &Place) -> Result<Client, LayerError> {
        let Place { via, registry, host, .. } = place;
        match via {
            Via::Proxy => self.proxy(registry),
            Via::Registry => self
                .registries
                .client(registry, host)
                .map_err(|source| LayerError::Registry { host: registry.clone(), source }),
        }
    }

    /// Returns whom images of a registry are asked of, who is to be asked first.
    pub(crate) fn hosts(&self, via: Via, registry: &str) -> Vec<String> {
        match via {
            Via::Proxy => vec![String::new()],
            Via::Registry => self.registries.hosts(registry),
        }
    }

    /// Returns the address of the proxy that a place is of.
    pub(crate) fn maker(&self, place: &Place) -> Option<String> {
        let is_proxy = place.via == Via::Proxy;
        is_proxy.then(|| self.proxies.of(&place.registry).map(|(proxy, _)| proxy.authority().to_owned())).flatten()
    }

    /// Has who does not answer asked last for a while.
    pub(crate) fn note(&self, place: &Place, error: &UpstreamError) {
        if place.via == Via::Registry {
            self.registries.note(&place.registry, &place.host, error);
        }
    }

    /// Returns a client of the proxy that stands for a registry.
    ///
    /// # Errors
    /// [`LayerError::NoProxy`].
    pub(crate) fn proxy(&self, host: &str) -> Result<Client, LayerError> {
        let (_, client) = self.proxies.of(host).ok_or_else(|| LayerError::NoProxy { host: host.to_owned() })?;
        Ok(client)
    }
}
