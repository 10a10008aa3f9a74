"""The edits of the proxy tasks' kinds by themselves, drawn and made at once."""

import tensorflow as tf

from cutpaste_tf.augment import paste, proxy


def edit_of(kind, images, seed, **ranges):
    """The edit that a kind makes of images; ranges are `proxy.Settings`'s."""
    settings = proxy.Settings(**ranges)
    size = paste.static_size(images)
    return kind.edit(images, kind.draw(tf.shape(images)[0], size, seed, settings), settings)


def cutpaste(images, seed, **ranges):
    return edit_of(proxy.CUTPASTE.kind, images, seed, **ranges)


def cutpaste_scar(images, seed, **ranges):
    return edit_of(proxy.SCAR.kind, images, seed, **ranges)
