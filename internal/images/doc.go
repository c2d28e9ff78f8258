// Package images builds container images without a container engine: a layer of
// files, a configuration, and an archive that every runtime imports. The same files
// make the same digest, whenever and wherever they are built. And it takes programs
// out of images that others have released.
package images
