#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/qwen3.<libc>.node, the binary that the tarball ships. prebuildify names, strips and places it;
// the building is cmake-js's, which it reaches because PREBUILD_NODE_GYP names this file. node-gyp and binding.gyp take no part.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildNative, installPackages, isFile, requireBuildTools, root, run } from './setup.mjs'

if (process.argv.includes('rebuild')) {
  // Called by prebuildify as if it were node-gyp. It takes the result from build/Release.
  buildNative()
} else {
  requireBuildTools()
  installPackages()
  // prebuildify takes the first .node file that it finds there and moves it away: the development build would be gone.
  rmSync(join(root, 'build', 'Release', 'qwen3.node'), { force: true })
  const prebuildify = join(root, 'node_modules', '.bin', 'prebuildify')
  const shim = fileURLToPath(import.meta.url)
  run(prebuildify, ['--napi', '--strip', '--tag-libc'], { env: { PREBUILD_NODE_GYP: shim, npm_config_nodedir: '' } })
  buildNative({ quiet: true })
  const libc = process.report.getReport().header.glibcVersionRuntime ? 'glibc' : 'musl'
  const made = join(
    root,
    'prebuilds',
    `${process.platform}-${process.arch}`,
    `qwen3${process.platform === 'linux' ? `.${libc}` : ''}.node`,
  )
  if (!isFile(made)) throw new Error(`prebuildify made no ${made}`)
  console.log(`made ${made}`)
}
