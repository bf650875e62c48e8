{
  # Tools that look for a binding.gyp find this: the build itself is described in CMakeLists.txt and driven by cmake-js.
  # package.json says "gypfile": false, so that npm never runs node-gyp, and the tarball leaves this file out.
  "targets": [
    {
      "target_name": "qwen3",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/qwen3.node"],
          "action": ["node", "scripts/build-native.mjs"]
        }
      ]
    }
  ]
}
