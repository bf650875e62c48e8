// require() reaches the same objects as import: there is one Qwen3Error class.
const { Qwen3, Qwen3Error } = require('qwen3')

async function main() {
  const model = await Qwen3.load('nano')
  try {
    const { text } = await model.chat('What is 12+30-7?', { seed: 1 }).result()
    console.log(text)
  } finally {
    await model.close()
  }
  const imported = await import('qwen3')
  console.log('one class:', imported.Qwen3Error === Qwen3Error)
}

main()
