// `npm run build:native | build:debug | build:asan`: the addon for this machine through cmake-js, each in a folder of its own.
import { buildNative, installPackages, requireBuildTools } from './setup.mjs'

requireBuildTools()
installPackages()
if (process.argv.includes('--asan'))
  buildNative({
    folder: 'build-asan',
    defines: { QWEN3_SANITIZE: 'address,undefined', CMAKE_BUILD_TYPE: 'Debug' },
    debug: true,
  })
else if (process.argv.includes('--debug')) buildNative({ folder: 'build-debug', debug: true })
else buildNative()
