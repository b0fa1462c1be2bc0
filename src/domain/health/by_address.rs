//! What belongs to each endpoint of a service? Several keep something for the same
//! endpoints: so they share the addresses, and each keeps its values in their order.

use std::iter::{Copied, Zip};
use std::slice;
use std::sync::Arc;

use super::address::Address;

/// Addresses in their order, each once. Cloning shares them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Addresses(Arc<[Address]>);

impl Addresses {
    /// Whether this is one of them.
    pub fn contains(&self, address: Address) -> bool {
        self.place(address).is_ok()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Address> {
        self.0.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, address: Address) -> Result<usize, usize> {
        self.0.binary_search(&address)
    }
}

impl<A: Into<Address>> FromIterator<A> for Addresses {
    fn from_iter<I: IntoIterator<Item = A>>(all: I) -> Self {
        let mut all: Vec<Address> = all.into_iter().map(Into::into).collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }
}

/// A value for each address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ByAddress<V> {
    addresses: Addresses,
    values: Box<[V]>,
}

impl<V> Default for ByAddress<V> {
    fn default() -> Self {
        Self {
            addresses: Addresses::default(),
            values: Box::default(),
        }
    }
}

impl<V> ByAddress<V> {
    /// The addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What belongs to this address.
    pub fn get(&self, address: Address) -> Option<&V> {
        self.values.get(self.addresses.place(address).ok()?)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, address: Address) -> Option<&mut V> {
        self.values.get_mut(self.addresses.place(address).ok()?)
    }

    /// All in the order of the addresses.
    pub fn iter(&self) -> Zip<Copied<slice::Iter<'_, Address>>, slice::Iter<'_, V>> {
        self.addresses.0.iter().copied().zip(&self.values)
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (Address, &mut V)> {
        self.addresses.iter().zip(&mut self.values)
    }

    /// All without their addresses.
    pub fn values(&self) -> slice::Iter<'_, V> {
        self.values.iter()
    }

    /// The same, to change them.
    pub fn values_mut(&mut self) -> slice::IterMut<'_, V> {
        self.values.iter_mut()
    }

    /// Another value for each of the same addresses.
    pub fn map<U>(&self, to: impl FnMut(&V) -> U) -> ByAddress<U> {
        ByAddress {
            addresses: self.addresses.clone(),
            values: self.values.iter().map(to).collect(),
        }
    }

    /// Takes these addresses instead: what belongs to those that stay is kept, and `come`
    /// makes what belongs to those that come.
    pub fn become_of(&mut self, addresses: &Addresses, mut come: impl FnMut(Address) -> V) {
        if self.addresses == *addresses {
            // So that they are in memory once.
            self.addresses = addresses.clone();
            return;
        }
        let Self {
            addresses: known,
            values,
        } = std::mem::take(self);
        let mut before = known.iter().zip(values).peekable();
        let mut values = Vec::with_capacity(addresses.0.len());
        for address in addresses.iter() {
            while before.next_if(|(of, _)| *of < address).is_some() {}
            let stays = before.next_if(|(of, _)| *of == address);
            values.push(stays.map_or_else(|| come(address), |(_, value)| value));
        }
        self.addresses = addresses.clone();
        self.values = values.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Address {
        ([10, 0, 0, n], 80).into()
    }

    fn addresses(of: &[u8]) -> Addresses {
        of.iter().copied().map(address).collect()
    }

    #[test]
    fn what_belongs_to_an_address_stays_with_it_whoever_comes_and_goes() {
        let mut kept = ByAddress::default();
        let number = |of: Address| of.to_string().len();
        kept.become_of(&addresses(&[9, 1, 100, 9]), number);
        assert_eq!(kept.len(), 3);
        kept.become_of(&addresses(&[0, 5, 9, 200]), |_| 0);
        let all: Vec<_> = kept.iter().map(|(of, n)| (of, *n)).collect();
        let expected = [(0, 0), (5, 0), (9, 11), (200, 0)];
        assert_eq!(all, expected.map(|(n, value)| (address(n), value)));
        assert_eq!(
            (kept.get(address(9)), kept.get(address(1))),
            (Some(&11), None)
        );
    }

    #[test]
    fn equal_addresses_are_in_memory_once() {
        let mut kept = ByAddress::default();
        kept.become_of(&addresses(&[1, 2]), |_| ());
        let other = addresses(&[2, 1]);
        kept.become_of(&other, |_| panic!("nobody comes"));
        assert!(Arc::ptr_eq(&kept.addresses().0, &other.0));
    }
}
