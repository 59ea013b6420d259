FROM BASE AS b
FROM scratch
COPY --from=b /bin/busybox /busybox
CMD ["/busybox"]
