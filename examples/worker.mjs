// A model inside a worker thread. (It is not needed for speed: generation never blocks the event loop.)
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Qwen3 } from 'qwen3'

if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url))
  worker.on('message', (text) => console.log(`the worker says: ${text}`))
  worker.postMessage('What is 12+30-7?')
} else {
  parentPort.once('message', async (question) => {
    const model = await Qwen3.load('nano')
    const { text } = await model.chat(question, { seed: 1 }).result()
    await model.close()
    parentPort.postMessage(text)
  })
}
