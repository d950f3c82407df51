// SPDX-License-Identifier: GPL-2.0

//! Memory that may be refused.

use core::ops::{Deref, DerefMut};
use std::cell::Cell;

/// There is no memory.
#[derive(Clone, Copy, Debug)]
pub struct AllocError;

/// How an allocation is made.
#[derive(Clone, Copy, Debug)]
pub struct Flags(());

/// Values of [`Flags`].
pub mod flags {
    use super::Flags;

    /// It may sleep.
    pub const GFP_KERNEL: Flags = Flags(());
}

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// From now on so many allocations of this thread succeed, and no more.
pub fn allow(allocations: u32) {
    LEFT.set(allocations);
}

/// A vector whose allocations can fail.
#[derive(Debug)]
pub struct KVVec<T>(Vec<T>);

impl<T: Clone> KVVec<T> {
    /// An empty one, without memory.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty one, with memory for so many elements.
    pub fn with_capacity(capacity: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut this = Self::new();
        this.reserve(capacity, flags)?;
        Ok(this)
    }

    fn reserve(&mut self, more: usize, _flags: Flags) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < more {
            LEFT.set(LEFT.get().checked_sub(1).ok_or(AllocError)?);
            self.0.reserve(more);
        }
        Ok(())
    }

    /// Appends copies of these elements.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.reserve(other.len(), flags)?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// Leaves the first `len` elements.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Makes it `len` elements long, and those that are added are copies of `value`.
    pub fn resize(&mut self, len: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(len.saturating_sub(self.0.len()), flags)?;
        self.0.resize(len, value);
        Ok(())
    }
}

impl<T: Clone> Default for KVVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for KVVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
